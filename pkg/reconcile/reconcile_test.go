package reconcile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/overlay-cni/overlay-cni/pkg/reconcile"
)

// thing is an object for tests: by its name it is told apart.
type thing struct {
	name  string
	value int
	rank  int
	child string // of which other thing it is a part
}

func (o thing) Key() any                           { return o.name }
func (o thing) Matches(have reconcile.Object) bool { return o == have }
func (o thing) Rank() int                          { return o.rank }
func (o thing) String() string                     { return fmt.Sprintf("%s=%d", o.name, o.value) }

// at is a thing of a rank.
func at(rank int, name string, value int) thing { return thing{name: name, value: value, rank: rank} }

func objects(things ...thing) []reconcile.Object {
	all := make([]reconcile.Object, len(things))
	for i, o := range things {
		all[i] = o
	}
	return all
}

func texts(changes []reconcile.Change) string {
	all := make([]string, len(changes))
	for i, c := range changes {
		all[i] = c.String()
	}
	return strings.Join(all, "; ")
}

func TestDiff(t *testing.T) {
	t.Parallel()
	link, address, route := at(0, "link", 1), at(1, "address", 1), at(2, "route", 1)
	for _, test := range []struct {
		name       string
		want, have []reconcile.Object
		scope      reconcile.Scope
		changes    string
	}{
		{"nothing", nil, nil, reconcile.Owned, ""},
		{"as it should be, in another order", objects(link, route), objects(route, link), reconcile.Owned, ""},
		{"foundations first", objects(route, address, link), nil, reconcile.Owned, "missing: link=1; missing: address=1; missing: route=1"},
		{"foundations last when they go", nil, objects(link, route, address), reconcile.Owned, "unexpected: route=1; unexpected: address=1; unexpected: link=1"},
		{"in the order given within a rank", objects(at(1, "b", 1), at(1, "a", 1), at(0, "z", 1)), nil, reconcile.Owned, "missing: z=1; missing: b=1; missing: a=1"},
		{"what differs", objects(at(0, "link", 2)), objects(link), reconcile.Owned, "differs: link=1, should be link=2"},
		{
			"add before remove, whatever the ranks", objects(link, at(2, "new route", 1)), objects(link, at(0, "old link", 1), route), reconcile.Owned,
			"missing: new route=1; unexpected: route=1; unexpected: old link=1",
		},
		{"others' things stay", objects(link), objects(at(0, "theirs", 1)), reconcile.Shared, "missing: link=1"},
		{"others' things go where all is ours", objects(link), objects(at(0, "stale", 1)), reconcile.Owned, "missing: link=1; unexpected: stale=1"},
		{"what differs is changed where things are shared", objects(at(0, "link", 2)), objects(link), reconcile.Shared, "differs: link=1, should be link=2"},
		{"of two wanted with one key the last counts", objects(at(0, "link", 1), at(0, "link", 2)), nil, reconcile.Owned, "missing: link=2"},
		{"what exists twice under one key, once as it should be", objects(at(0, "link", 1)), objects(at(0, "link", 1), at(0, "link", 2)), reconcile.Owned, "differs: link=2, should be link=1"},
		{"the last of two with one key differs from what the first says", objects(at(0, "link", 1), at(0, "link", 2)), objects(at(0, "link", 1)), reconcile.Owned, "differs: link=1, should be link=2"},
		{"the first of two with one key isn't compared", objects(at(0, "link", 1), at(0, "link", 2)), objects(at(0, "link", 2)), reconcile.Owned, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := texts(reconcile.Diff(test.want, test.have, test.scope)); got != test.changes {
				t.Errorf("got %q, want %q", got, test.changes)
			}
		})
	}
}

// TestDiffIsSimple: whatever there is and is wanted, the difference is that of
// two tables by key.
func TestDiffIsSimple(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) reconcile.Object {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
			return at(int(name[0]), name, rapid.IntRange(1, 2).Draw(t, "value"))
		}), 0, 6)
		want := some.Draw(t, "want")
		wanted, existing := map[any]reconcile.Object{}, map[any]reconcile.Object{}
		for _, w := range want {
			wanted[w.Key()] = w
		}
		for _, h := range some.Draw(t, "have") {
			existing[h.Key()] = h
		}
		have := slices.Collect(maps.Values(existing))
		changed, removed := map[any]reconcile.Change{}, map[any]bool{}
		for _, c := range reconcile.Diff(want, have, reconcile.Owned) {
			if c.Want == nil {
				removed[c.Have.Key()] = true
			} else if changed[c.Want.Key()] != (reconcile.Change{}) {
				t.Fatalf("%s is changed twice", c.Want)
			} else {
				changed[c.Want.Key()] = c
			}
		}
		for key, w := range wanted {
			c, ok := changed[key]
			if ok != (existing[key] != w) || ok && (c.Want != w || c.Have != existing[key]) {
				t.Errorf("%s of %v: %t, %+v", w, existing[key], ok, c)
			}
		}
		for key := range existing {
			if removed[key] != (wanted[key] == nil) {
				t.Errorf("%v is removed: %t", key, removed[key])
			}
		}
	})
}

// TestDiffOfManyIsCheap: what is as it should be leaves no garbage, however much
// it is.
func TestDiffOfManyIsCheap(t *testing.T) {
	var all []reconcile.Object
	for i := range 10000 {
		all = append(all, at(0, fmt.Sprint(i), 1))
	}
	if count := testing.AllocsPerRun(5, func() { reconcile.Diff(all, all, reconcile.Owned) }); count > 100 {
		t.Errorf("%.0f allocations", count)
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	want := objects(at(2, "route", 1), at(0, "b", 1), at(0, "a", 2))
	before := slices.Clone(want)
	if got := reconcile.Format(want); got != "a=2\nb=1\nroute=1\n" {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(want, before) {
		t.Error("Format sorted its argument")
	}
}

func TestRunJoinsErrors(t *testing.T) {
	t.Parallel()
	bad, worse := errors.New("bad"), errors.New("worse")
	fake := &reconcile.Fake{Fail: func(c reconcile.Change) error {
		return map[any]error{"b": bad, "d": worse}[c.Subject().Key()]
	}}
	changes, err := reconcile.Run(t.Context(), fake, objects(at(0, "a", 1), at(0, "b", 1), at(0, "c", 1), at(0, "d", 1)), reconcile.Owned)
	if !errors.Is(err, bad) || !errors.Is(err, worse) || !strings.Contains(err.Error(), "b=1: bad") {
		t.Errorf("got %v, want both errors with their objects", err)
	}
	if len(changes) != 4 {
		t.Errorf("the changes needed were %q", texts(changes))
	}
	if got := texts(fake.Applied); got != "missing: a=1; missing: c=1" {
		t.Errorf("applied was %q, want what didn't fail", got)
	}
	if reconcile.IsDrift(err) {
		t.Error("a failure counts as a difference")
	}
}

// blind is a target that can't be looked at.
type blind struct {
	reconcile.Target
	err error
}

func (b blind) Observe(context.Context) ([]reconcile.Object, error) { return nil, b.err }

func TestNothingIsDoneBlindly(t *testing.T) {
	t.Parallel()
	target := blind{err: errors.New("dark")} // Apply would panic
	want := objects(at(0, "a", 1))
	if _, err := reconcile.Run(t.Context(), target, want, reconcile.Owned); !errors.Is(err, target.err) {
		t.Errorf("Run: %v", err)
	}
	if _, err := reconcile.Settle(t.Context(), target, want, reconcile.Owned); !errors.Is(err, target.err) {
		t.Errorf("Settle: %v", err)
	}
	if _, err := reconcile.Check(t.Context(), target, want, reconcile.Owned); !errors.Is(err, target.err) {
		t.Errorf("Check: %v", err)
	}
}

func TestRunWritesNothingWhenNothingDiffers(t *testing.T) {
	t.Parallel()
	fake := &reconcile.Fake{Fail: func(c reconcile.Change) error { return fmt.Errorf("written: %s", c) }}
	fake.Set(at(0, "a", 1), at(0, "theirs", 1))
	changes, err := reconcile.Run(t.Context(), fake, objects(at(0, "a", 1)), reconcile.Shared)
	if err != nil || len(changes) != 0 || len(fake.Applied) != 0 {
		t.Errorf("got %q, %v", texts(changes), err)
	}
}

// tree is a target in which a thing that is replaced takes its children with
// it, as a link does with its addresses.
type tree struct {
	reconcile.Fake
	passes int
	stubborn,
	reborn string // what comes out wrong; what comes back
}

func (t *tree) Apply(ctx context.Context, changes []reconcile.Change) error {
	t.passes++
	for _, c := range changes {
		if err := t.Fake.Apply(ctx, []reconcile.Change{c}); err != nil {
			return err
		}
		have, err := t.Observe(ctx)
		if err != nil {
			return err
		}
		t.Set(slices.DeleteFunc(have, func(o reconcile.Object) bool {
			child := o.(thing)
			return c.Have != nil && child.child == c.Subject().Key() || child.name == t.stubborn
		})...)
	}
	if t.reborn != "" {
		have, err := t.Observe(ctx)
		if err != nil {
			return err
		}
		t.Set(append(have, at(5, t.reborn, 1))...)
	}
	return nil
}

func TestSettle(t *testing.T) {
	t.Parallel()
	link, newer := at(0, "link", 1), at(0, "link", 2)
	address := thing{name: "address", value: 1, rank: 1, child: "link"}
	route := thing{name: "route", value: 1, rank: 2, child: "address"}
	for _, test := range []struct {
		name       string
		have, want []thing
		passes     int
		changes    string
	}{
		{"nothing to do", []thing{link, address}, []thing{link, address}, 0, ""},
		{"from nothing", nil, []thing{link, address, route}, 1, "missing: link=1; missing: address=1; missing: route=1"},
		{
			"a link that is made anew loses its address", []thing{link, address, route}, []thing{newer, address, route}, 2,
			"differs: link=1, should be link=2; missing: address=1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			target := &tree{}
			target.Set(objects(test.have...)...)
			changes, err := reconcile.Settle(t.Context(), target, objects(test.want...), reconcile.Owned)
			if err != nil || texts(changes) != test.changes || target.passes != test.passes {
				t.Errorf("got %q in %d passes, %v; want %q in %d", texts(changes), target.passes, err, test.changes, test.passes)
			}
			if left, err := reconcile.Check(t.Context(), target, objects(test.want...), reconcile.Owned); err != nil || len(left) != 0 {
				t.Errorf("it left %q, %v", texts(left), err)
			}
		})
	}
}

func TestSettleSaysWhatDoesNotConverge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		target *tree
		drift  string
	}{
		{"what never comes to be", &tree{stubborn: "b"}, "missing: b=1"},
		{"what always comes back", &tree{reborn: "ghost"}, "unexpected: ghost=1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			changes, err := reconcile.Settle(t.Context(), test.target, objects(at(0, "a", 1), at(0, "b", 1)), reconcile.Owned)
			var drift *reconcile.DriftError
			if !errors.As(err, &drift) || !reconcile.IsDrift(fmt.Errorf("node: %w", err)) || err.Error() != test.drift {
				t.Errorf("got error %v, want the difference %q", err, test.drift)
			}
			if test.target.passes != 3 || len(changes) < 3 {
				t.Errorf("it made %q in %d passes", texts(changes), test.target.passes)
			}
		})
	}
}

func TestSettleStopsAtAnError(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	fake := &reconcile.Fake{Fail: func(reconcile.Change) error { return refused }}
	changes, err := reconcile.Settle(t.Context(), fake, objects(at(0, "a", 1)), reconcile.Owned)
	if !errors.Is(err, refused) || len(changes) != 1 {
		t.Errorf("got %q, %v", texts(changes), err)
	}
}

func TestDrift(t *testing.T) {
	t.Parallel()
	if err := reconcile.Drift(nil); err != nil || reconcile.IsDrift(err) {
		t.Errorf("no changes: %v", err)
	}
	err := reconcile.Drift(reconcile.Diff(objects(at(0, "a", 1), at(1, "b", 1)), objects(at(0, "a", 2)), reconcile.Owned))
	if err == nil || err.Error() != "differs: a=2, should be a=1; missing: b=1" {
		t.Errorf("got %v", err)
	}
}

// things draws a system's state: names are few, so that they meet. The rank
// follows from the name, as it does from an object's kind.
func things(t *rapid.T, label string) []reconcile.Object {
	return objects(rapid.SliceOfDistinct(
		rapid.Custom(func(t *rapid.T) thing {
			n := rapid.IntRange(0, 9).Draw(t, "name")
			return at(n%3, fmt.Sprintf("thing %d", n), rapid.IntRange(0, 2).Draw(t, "value"))
		}), func(o thing) string { return o.name }).Draw(t, label)...)
}

// TestRunConverges: from any state to any other in one pass, in an order in
// which nothing is missing that was there before and is there after.
func TestRunConverges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want, have := things(t, "want"), things(t, "have")
		scope := reconcile.Scope(rapid.Bool().Draw(t, "owned"))
		fake := &reconcile.Fake{}
		fake.Set(have...)
		changes, err := reconcile.Run(context.Background(), fake, want, scope)
		if err != nil {
			t.Fatal(err)
		}
		after, err := fake.Observe(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if left := reconcile.Diff(want, after, scope); len(left) != 0 {
			t.Fatalf("it left %q", texts(left))
		}
		if scope == reconcile.Owned && reconcile.Format(after) != reconcile.Format(want) {
			t.Fatalf("there is %q, want %q", reconcile.Format(after), reconcile.Format(want))
		}
		for _, o := range have {
			kept := slices.ContainsFunc(after, func(a reconcile.Object) bool { return a.Key() == o.Key() })
			if scope == reconcile.Shared && !kept {
				t.Fatalf("%s is gone, and may have been another's", o)
			}
		}
		inOrder := slices.IsSortedFunc(changes, func(a, b reconcile.Change) int {
			step := func(c reconcile.Change) (int, int) {
				if c.Want == nil {
					return 1, -c.Have.Rank()
				}
				return 0, c.Want.Rank()
			}
			as, ar := step(a)
			bs, br := step(b)
			return cmp.Or(cmp.Compare(as, bs), cmp.Compare(ar, br))
		})
		if !inOrder {
			t.Fatalf("the order is %q", texts(changes))
		}
	})
}
