package lease_test

import (
	"context"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// dated is a store that knows when keys were created.
type dated struct {
	store.Store
	created map[string]int64
}

func (s *dated) List(ctx context.Context, prefix string) ([]store.Entry, store.Revision, error) {
	entries, revision, err := s.Store.List(ctx, prefix)
	for i := range entries {
		entries[i].Created = s.created[entries[i].Key]
	}
	return entries, revision, err
}

// TestTheSeniorStays: of two networks that exclude each other the one stays that
// was created first, whichever was changed last; of two of one second, the first
// by name; but one in use stays before one that isn't.
func TestTheSeniorStays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		created    map[string]int64
		used, stay string
	}{
		{"unknown when, b is written first", nil, "", "b"},
		{"a is older", map[string]int64{"networks/a": 1, "networks/b": 2}, "", "a"},
		{"b is older", map[string]int64{"networks/a": 2, "networks/b": 1}, "", "b"},
		{"of one second", map[string]int64{"networks/a": 1, "networks/b": 1}, "", "a"},
		{"a is older, b is used", map[string]int64{"networks/a": 1, "networks/b": 2}, "b", "b"},
	} {
		r, _ := newRegistry(t)
		r.Store = &dated{r.Store, test.created}
		for _, name := range []string{"b", "a"} { // written by hand: they exclude each other
			if _, err := r.Store.Create(t.Context(), "networks/"+name, []byte(`{"cidrs": ["10.1.0.0/16"], "vni": 7}`)); err != nil {
				t.Fatal(err)
			}
		}
		if test.used != "" {
			n := network(test.used, "10.1.0.0/16")
			acquire(t, r, claim(n, "n1"))
		}
		for _, name := range []string{"a", "b"} {
			_, err := r.Network(t.Context(), name)
			if name == test.stay && err != nil {
				t.Errorf("%s: %s: %v", test.name, name, err)
			}
			if name != test.stay {
				wantError(t, err, lease.ErrConflict, name, test.stay)
			}
		}
	}
}
