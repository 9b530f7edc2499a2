package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// quiet is a network whose syncs end as the test says.
type quiet struct {
	name     string
	outcomes chan error
}

func (q quiet) Name() string { return q.name }

func (q quiet) Audit(context.Context) error { return nil }

func (q quiet) Sync(ctx context.Context) (*nodestate.State, error) {
	select {
	case err := <-q.outcomes:
		return &nodestate.State{}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (q quiet) Watch(ctx context.Context, _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// readyz asks without a network in between.
func readyz(h *Health) (int, string) {
	w := httptest.NewRecorder()
	h.ready(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	return w.Code, w.Body.String()
}

func wantReadyz(t *testing.T, when string, h *Health, status int, parts ...string) {
	t.Helper()
	got, body := readyz(h)
	if got != status {
		t.Errorf("%s: %d, want %d: %s", when, got, status, body)
	}
	for _, part := range parts {
		if !strings.Contains(body, part) {
			t.Errorf("%s: %s doesn't say %q", when, body, part)
		}
	}
}

func TestReadyWhenAllNetworksAre(t *testing.T) {
	t.Parallel()
	h := NewHealth(netip.AddrPort{}, nil)
	wantReadyz(t, "before anything is known", h, http.StatusServiceUnavailable, "networks aren't known yet")
	h.listed(errors.New("store is away"))
	wantReadyz(t, "when they can't be listed", h, http.StatusServiceUnavailable, "store is away")
	h.listed(nil)
	wantReadyz(t, "without networks", h, http.StatusServiceUnavailable, "no network")
	h.expect("pods")
	h.expect("storage")
	wantReadyz(t, "at first", h, http.StatusServiceUnavailable, "pods", "storage", "not synced yet")
	h.report("pods", &nodestate.State{}, nil)
	wantReadyz(t, "with one of two", h, http.StatusServiceUnavailable)
	h.report("storage", nil, errors.New("no free block"))
	wantReadyz(t, "with one that fails", h, http.StatusServiceUnavailable, "no free block")
	h.report("storage", &nodestate.State{}, nil)
	wantReadyz(t, "with both", h, http.StatusOK, `"ready": true`)
	h.report("pods", nil, errors.New("store is away"))
	wantReadyz(t, "when the store goes away later", h, http.StatusOK, "store is away")
	h.listed(errors.New("store is away"))
	wantReadyz(t, "when networks can't be listed later", h, http.StatusOK)
	h.forget("storage")
	wantReadyz(t, "when one is no longer served", h, http.StatusOK, "pods")
}

func TestNotReadyWhenTheLeaseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth(netip.AddrPort{}, nil)
		h.listed(nil)
		h.report("pods", &nodestate.State{Expires: time.Now().Add(time.Hour)}, nil)
		wantReadyz(t, "at first", h, http.StatusOK, "leaseExpires")
		<-time.After(time.Hour - time.Second)
		h.report("pods", nil, errors.New("store is away"))
		wantReadyz(t, "as long as the lease lasts", h, http.StatusOK)
		<-time.After(2 * time.Second)
		wantReadyz(t, "after it", h, http.StatusServiceUnavailable, "store is away")
		h.report("pods", &nodestate.State{Expires: time.Now().Add(time.Hour)}, nil)
		wantReadyz(t, "when it was renewed", h, http.StatusOK)
	})
}

// address is one of the loopback that nobody else uses.
func address(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// get asks the served endpoint until it answers with a status.
func get(t *testing.T, a netip.AddrPort, path string, status int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for last := error(nil); ; {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s", a, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := http.DefaultClient.Do(r); err == nil {
			body, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			if err == nil && answer.StatusCode == status {
				return string(body)
			}
			last = fmt.Errorf("%s: %s, %w", answer.Status, body, err)
		} else {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("GET %s: no answer with status %d: %v", path, status, last)
		}
	}
}

func TestHealthIsServed(t *testing.T) {
	t.Parallel()
	n := quiet{name: "pods", outcomes: make(chan error)}
	networks := Fixed{n}
	a := &Agent{Networks: networks, Health: NewHealth(address(t), nil)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	get(t, a.Health.Address, "/healthz", http.StatusOK)
	get(t, a.Health.Address, "/readyz", http.StatusServiceUnavailable)
	get(t, a.Health.Address, "/other", http.StatusNotFound)
	n.outcomes <- errors.New("no free block")
	n.outcomes <- nil
	if body := get(t, a.Health.Address, "/readyz", http.StatusOK); !strings.Contains(body, "pods") {
		t.Errorf("ready, it says %s", body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("stopped, the agent returns %v", err)
	}
	var dialer net.Dialer
	if c, err := dialer.DialContext(t.Context(), "tcp", a.Health.Address.String()); err == nil {
		c.Close()
		t.Error("it answers after its end")
	}
}

// TestHealthCannotBeServed: the daemon doesn't run on unseen, and its tasks end.
func TestHealthCannotBeServed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	networks := Fixed{quiet{name: "pods"}}
	a := &Agent{Networks: networks, Health: NewHealth(netip.MustParseAddrPort(l.Addr().String()), nil)}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "serve health") || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// TestAnnouncement: readiness is told once, when it changes, and again when it
// couldn't be told.
func TestAnnouncement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth(netip.AddrPort{}, nil)
		var told []string
		failures := 2
		tell := func(_ context.Context, ready bool, reason string) error {
			if failures--; failures >= 0 {
				return errors.New("away")
			}
			told = append(told, fmt.Sprint(ready, " ", reason))
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- announce(ctx, h, tell, orDiscard(nil)) }()
		want := func(when string, after time.Duration, want ...string) {
			t.Helper()
			<-time.After(after)
			synctest.Wait()
			if !slices.Equal(told, want) {
				t.Errorf("%s it is told %q, want %q", when, told, want)
			}
		}
		want("while it starts", 10*time.Second)
		unready := "false networks aren't known yet"
		want("when it doesn't become ready", 5*time.Minute, unready)
		h.expect("pods")
		h.listed(nil)
		h.report("pods", &nodestate.State{Expires: time.Now().Add(time.Hour)}, nil)
		want("when it does", time.Second, unready, "true ")
		h.report("pods", nil, errors.New("store is away"))
		want("with the store away", 50*time.Minute, unready, "true ")
		want("when the lease ends", 20*time.Minute, unready, "true ", "false network pods: store is away")
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("stopped, it returns %v", err)
		}
	})
}
