package store_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// TestResume: a watch goes on where it broke, with pauses that grow while it sees
// nothing, and are short again when it does; it ends with its context or an error.
func TestResume(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hopeless := errors.New("hopeless")
		start, calls := time.Now(), []time.Duration{}
		err := store.Resume(t.Context(), "watch", 7, func(_ context.Context, after int) (int, error) {
			calls = append(calls, time.Since(start))
			switch n := len(calls); {
			case n <= 12 && after != 7, n > 13 && after != 8:
				t.Errorf("attempt %d is after %d", n, after)
			case n == 12:
				return 8, nil
			case n == 15:
				return 8, hopeless
			}
			return after, nil
		})
		if !errors.Is(err, hopeless) || len(calls) != 15 {
			t.Fatalf("%v after %d attempts", err, len(calls))
		}
		gap := func(i int) time.Duration { return calls[i+1] - calls[i] }
		if first := gap(0); first < 25*time.Millisecond || first > 50*time.Millisecond {
			t.Errorf("the first pause is %s", first)
		}
		if last := gap(10); last < 2500*time.Millisecond || last > 5*time.Second {
			t.Errorf("the pause after many attempts is %s", last)
		}
		if again := gap(11); again > 50*time.Millisecond {
			t.Errorf("the pause after something was seen is %s", again)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := store.Resume(ctx, "watch", 7, func(context.Context, int) (int, error) { cancel(); return 7, nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("with its context ended: %v", err)
		}
	})
}
