package blocks_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
)

// keeping is a node's keeper with what it needs: a store, a ledger, a clock.
type keeping struct {
	*testing.T
	*blocks.Keeper
	client *client
	claim  *lease.Claim
	path   string
	clock  time.Time
	asked  func() // called when the keeper asks for the time
	pods   int
}

// withdrawnTime is how long package blocks keeps what it has given back from
// being given.
const withdrawnTime = 10 * time.Minute

func newKeeping(t *testing.T, pools ...lease.Pool) *keeping {
	t.Helper()
	n := lease.Network{Name: "pods", Pools: pools}.Complete()
	k := &keeping{
		T: t, client: &client{memory: newMemory()}, path: filepath.Join(t.TempDir(), "ledger"),
		clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		claim: &lease.Claim{Network: n, Node: "n1", Instance: "i1", VTEP: lease.VTEP{
			Underlay: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, MAC: n.MAC("n1"),
		}},
	}
	now := func() time.Time { return k.clock }
	k.Keeper = &blocks.Keeper{
		Registry: &lease.Registry{Store: k.client, TTL: time.Hour, Now: now}, Open: k.open, Pooled: true,
		Grace: time.Minute, Log: slog.New(slog.DiscardHandler), Now: func() time.Time {
			if k.asked != nil {
				k.asked()
			}
			return k.clock
		},
	}
	return k
}

// small has four blocks of two addresses.
func small() lease.Pool { return pool("10.0.0.0/28", 30) }

func (k *keeping) open() (*ipam.Ledger, error) {
	return ipam.OpenLedger(k.path, ipam.Options{BootID: "boot", Now: func() time.Time { return k.clock }})
}

func (k *keeping) ledger() *ipam.Ledger {
	k.Helper()
	l, err := k.open()
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() { _ = l.Close() })
	return l
}

// sync acquires and balances, as a node does; it returns the blocks, and what
// the problem is.
func (k *keeping) sync() ([]lease.Lease, string) {
	k.Helper()
	own, err := k.Registry.Acquire(k.Context(), k.claim)
	if err != nil {
		k.Fatal(err)
	}
	return k.Balance(k.Context(), k.claim, own)
}

// want syncs and wants so many blocks, and no problem.
func (k *keeping) want(count int) []lease.Lease {
	k.Helper()
	own, problem := k.sync()
	if len(own) != count || problem != "" {
		k.Fatalf("the node has %v, problem %q; want %d blocks", own, problem, count)
	}
	return own
}

// add takes an address of one of the blocks for a new pod.
func (k *keeping) add(own []lease.Lease) (ipam.Attachment, error) {
	k.pods++
	a := ipam.Attachment{ContainerID: fmt.Sprint("pod-", k.pods), Interface: "eth0"}
	prefixes := make([]netip.Prefix, len(own))
	for i := range own {
		prefixes[i] = own[i].Block
	}
	_, err := k.ledger().Allocate(k.Context(), ipam.Request{Attachment: a, Sets: blocks.PodRanges(prefixes)})
	return a, err
}

func (k *keeping) mustAdd(own []lease.Lease, count int) (pods []ipam.Attachment) {
	k.Helper()
	for range count {
		a, err := k.add(own)
		if err != nil {
			k.Fatal(err)
		}
		pods = append(pods, a)
	}
	return pods
}

func (k *keeping) release(pods ...ipam.Attachment) {
	k.Helper()
	for _, a := range pods {
		if _, err := k.ledger().Release(k.Context(), a); err != nil {
			k.Fatal(err)
		}
	}
}

func (k *keeping) wantWithdrawn(own ...lease.Lease) {
	k.Helper()
	got, err := k.ledger().Withdrawn(k.Context())
	if err != nil {
		k.Fatal(err)
	}
	want := make([]ipam.Range, 0, len(own))
	for i := range own {
		want = append(want, blocks.PodRange(own[i].Block))
	}
	if !slices.EqualFunc(got, want, func(a, b ipam.Range) bool { return a.First == b.First && a.Last == b.Last }) {
		k.Fatalf("withdrawn are %v, want %v", got, want)
	}
}

// two has two blocks, the second of which is empty and may be given back.
func (k *keeping) two() []lease.Lease {
	k.Helper()
	pods := k.mustAdd(k.want(1), 2)
	own := k.want(2)
	k.release(pods...)
	k.want(2) // it is empty from now on
	k.clock = k.clock.Add(k.Grace)
	return own
}

func TestKeeperClaimsAndGivesBack(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.two()
	k.clock = k.clock.Add(-time.Second)
	k.want(2) // within the grace
	k.clock = k.clock.Add(time.Second)
	k.want(1)
	if got := k.Own(); !slices.Equal(got, []netip.Prefix{own[0].Block}) {
		t.Errorf("own blocks are %v", got)
	}
	k.wantWithdrawn(own[1])
	if _, err := k.add(own[1:]); !errors.Is(err, ipam.ErrWithdrawn) {
		t.Errorf("an ADD that knows the old state: %v", err)
	}
}

// TestKeeperGetsABlockAgain that it gave back, by claiming another one and by
// its lease having been left.
func TestKeeperGetsABlockAgain(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.two()
	k.want(1)
	k.mustAdd(own[:1], 2)
	again := k.want(2)
	if again[1].Block != own[1].Block {
		t.Fatalf("claimed %s, want %s", again[1].Block, own[1].Block)
	}
	k.wantWithdrawn()
	k.mustAdd(again, 2)
}

func TestKeeperOfAFixedNode(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.want(1)
	k.Pooled = false
	if err := k.ledger().Withdraw(t.Context(), blocks.PodRange(own[0].Block)); err != nil {
		t.Fatal(err)
	}
	k.want(1)
	k.wantWithdrawn()
	k.mustAdd(own, 2)
	k.want(1)
}

// TestKeeperProblems: the node has what it had, and the problem is told.
func TestKeeperProblems(t *testing.T) {
	t.Parallel()
	away := errors.New("disk is away")
	for name, test := range map[string]struct {
		spoil func(*keeping)
		want  string
	}{
		"the ledger is corrupt": {func(k *keeping) {
			if err := os.WriteFile(k.path, []byte("this is no ledger"), 0o600); err != nil {
				k.Fatal(err)
			}
		}, ipam.ErrCorrupt.Error()},
		"the ledger can't be opened": {func(k *keeping) {
			k.Open = func() (*ipam.Ledger, error) { return nil, away }
		}, away.Error()},
		"the store is away": {func(k *keeping) {
			k.client.inject(refused, 2, nil) // after Acquire's and Extend's lists
		}, errInjected.Error()},
		"the store's answer is lost": {func(k *keeping) { k.client.inject(lost, 2, nil) }, errInjected.Error()},
		"there is no block": {func(k *keeping) {
			k.claim.Network.Pools[0].NodeSelector = map[string]string{"zone": "elsewhere"}
		}, lease.ErrNoBlock.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeeping(t, small())
			before := k.want(1)
			k.mustAdd(before, 2)
			test.spoil(k)
			own, problem := k.sync()
			if len(own) != 1 || own[0].Block != before[0].Block || !strings.Contains(problem, test.want) {
				t.Errorf("got %v, problem %q, want one with %q", own, problem, test.want)
			}
			if got := k.Own(); !slices.Equal(got, []netip.Prefix{before[0].Block}) {
				t.Errorf("own blocks are %v", got)
			}
		})
	}
}

// TestKeeperProblemPasses: what couldn't be claimed is claimed the next time, or
// is there already when only the answer was lost.
func TestKeeperProblemPasses(t *testing.T) {
	t.Parallel()
	for _, f := range []fault{refused, lost} {
		k := newKeeping(t, small())
		k.mustAdd(k.want(1), 2)
		k.client.inject(f, 2, nil)
		if own, problem := k.sync(); problem == "" {
			t.Errorf("no problem, with %v", own)
		}
		k.mustAdd(k.want(2), 2)
	}
}

// TestKeeperFindsABlockInUse: an address is taken after the keeper saw that none
// was, and before it withdraws them.
func TestKeeperFindsABlockInUse(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.two()
	k.asked = func() {
		k.asked = nil
		k.mustAdd(own[1:], 1)
	}
	k.want(2)
	k.wantWithdrawn()
	k.mustAdd(own, 1)
}

// TestKeeperCantRelease: a block that is withdrawn, and whose lease the store
// still has, is given back later or used again.
func TestKeeperCantRelease(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pods, want int
	}{"not needed": {0, 1}, "needed": {2, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeeping(t, small())
			own := k.two()
			k.client.inject(refused, 2, nil) // the deletion
			if left, problem := k.sync(); len(left) != 2 || !strings.Contains(problem, errInjected.Error()) {
				t.Fatalf("got %v, problem %q", left, problem)
			}
			k.wantWithdrawn(own[1])
			k.mustAdd(own[:1], test.pods)
			k.want(test.want)
			if test.want == 2 {
				k.wantWithdrawn()
			}
		})
	}
}

// TestKeeperForgetsWhatIsWithdrawn: of a block that is another's, when no ADD can
// name it any more.
func TestKeeperForgetsWhatIsWithdrawn(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.two()
	k.client.inject(lost, 2, nil) // the deletion: the keeper doesn't know that it is done
	if left, problem := k.sync(); len(left) != 2 || problem == "" {
		t.Fatalf("got %v, problem %q", left, problem)
	}
	k.want(1) // begins to count
	k.counts(&own[1])
}

// counts sees a block forgotten when its time is over, and not before.
func (k *keeping) counts(own *lease.Lease) {
	k.Helper()
	k.clock = k.clock.Add(withdrawnTime - time.Second)
	k.want(1)
	k.wantWithdrawn(*own)
	k.clock = k.clock.Add(time.Second)
	k.want(1)
	k.wantWithdrawn()
}

// TestKeeperRestarts: what another process withdrew is counted anew.
func TestKeeperRestarts(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.two()
	k.want(1)
	k.clock = k.clock.Add(withdrawnTime - time.Second)
	k.Keeper = &blocks.Keeper{
		Registry: k.Registry, Open: k.open, Pooled: true, Grace: k.Grace, Log: k.Log, Now: func() time.Time { return k.clock },
	}
	k.want(1)
	k.counts(&own[1])
}

// TestKeeperLooks: the decision, and nothing done about it.
func TestKeeperLooks(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, small())
	own := k.two()
	d, err := k.Look(t.Context(), k.Own())
	if err != nil || !slices.Equal(d.Return, []netip.Prefix{own[1].Block}) {
		t.Errorf("got %+v, %v", d, err)
	}
	k.wantWithdrawn()
}

// TestKeeperSettlesWithBlocksOfTwoSizes: a block that is given back isn't wanted
// again at once.
func TestKeeperSettlesWithBlocksOfTwoSizes(t *testing.T) {
	t.Parallel()
	k := newKeeping(t, pool("10.0.0.0/28", 28), pool("10.0.1.0/29", 30))
	k.mustAdd(k.want(1), 12) // two of 14 are left
	k.want(2)
	for range 6 {
		k.want(2)
		k.clock = k.clock.Add(k.Grace)
	}
}
