package node_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/blocks"
	"github.com/overlay-cni/overlay-cni/pkg/intent"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// attach makes the host's end of an attachment, as ADD leaves it.
func (m *member) attach(t testing.TB, a ipam.Attachment, addresses ...netip.Addr) {
	t.Helper()
	at := intent.Attachment{Network: "pods", Container: a.ContainerID, Interface: a.Interface}
	name := at.HostInterface()
	lines := []string{
		fmt.Sprintf("ip link add %s group %d type veth peer name peer%s", name, intent.Group("pods"), name[3:12]),
		fmt.Sprintf("ip link set %s up alias %s", name, at.Alias()),
	}
	for _, address := range addresses {
		lines = append(lines, fmt.Sprintf("ip route add %s dev %s proto 118 metric 1024", netip.PrefixFrom(address, address.BitLen()), name))
	}
	m.command(t, strings.Join(lines, "\n"))
}

func (m *member) mustAudit(t testing.TB) {
	t.Helper()
	if err := m.host.Do(func() error { return m.Audit(t.Context()) }); err != nil {
		t.Fatal(err)
	}
}

func holders(t testing.TB, l *ipam.Ledger) (who []string) {
	t.Helper()
	all, err := l.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if !slices.Contains(who, a.ContainerID) {
			who = append(who, a.ContainerID)
		}
	}
	slices.Sort(who)
	return who
}

func addressesOf(t testing.TB, l *ipam.Ledger, a ipam.Attachment) (addresses []netip.Addr) {
	t.Helper()
	held, err := l.Lookup(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range held {
		addresses = append(addresses, h.Address)
	}
	return addresses
}

func newAudited(t testing.TB) (*member, *ipam.Ledger, *nodestate.State) {
	t.Helper()
	m := newMember(t)
	return m, m.ledger(t), m.mustSync(t)
}

// TestAuditFreesWhatLeaked: in the second look, and not what a pod has, somebody
// else looks after, or is being worked on.
func TestAuditFreesWhatLeaked(t *testing.T) {
	t.Parallel()
	m, l, s := newAudited(t)
	take(t, l, s, 0, 4)
	m.attach(t, pod(1), addressesOf(t, l, pod(1))...)
	if _, err := l.Allocate(t.Context(), ipam.Request{Attachment: pod(9), Sets: blocks.PodRanges(s.Blocks()), Elsewhere: true}); err != nil {
		t.Fatal(err)
	}
	busy := intent.Attachment{Network: "pods", Container: pod(2).ContainerID, Interface: "eth0"}
	err := m.inUse(t, busy, func() {
		m.mustAudit(t)
		if who := holders(t, l); len(who) != 5 {
			t.Errorf("one look was enough: held by %v", who)
		}
		m.mustAudit(t)
		if who := holders(t, l); !slices.Equal(who, []string{"pod-1", "pod-2", "pod-9"}) {
			t.Errorf("held by %v", who)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	m.mustAudit(t)
	if who := holders(t, l); !slices.Equal(who, []string{"pod-1", "pod-9"}) {
		t.Errorf("when it's no longer busy: held by %v", who)
	}
	if log := m.log.take(); strings.Count(log, "leaked address is freed") != 6 {
		t.Errorf("the log says\n%s", log)
	}
}

// TestAuditWithinTheGrace: no number of looks is enough.
func TestAuditWithinTheGrace(t *testing.T) {
	t.Parallel()
	m, l, s := newAudited(t)
	m.AuditGrace = 1e15
	take(t, l, s, 0, 1)
	for range 5 {
		m.mustAudit(t)
	}
	if who := holders(t, l); len(who) != 1 {
		t.Errorf("held by %v", who)
	}
}

// TestAuditHoldsWhatLives: a pod that the ledger doesn't know keeps its address.
func TestAuditHoldsWhatLives(t *testing.T) {
	t.Parallel()
	m, l, s := newAudited(t)
	take(t, l, s, 0, 1)
	addresses := addressesOf(t, l, pod(0))
	m.attach(t, pod(0), addresses...)
	release(t, l, 0, 1) // as nobody should
	m.mustAudit(t)
	if got := addressesOf(t, l, pod(0)); !slices.Equal(got, addresses) {
		t.Errorf("holds %v, has %v", got, addresses)
	}
	if log := m.log.take(); !strings.Contains(log, "written into the ledger again") || !strings.Contains(log, "orphaned") {
		t.Errorf("the log says\n%s", log)
	}
	m.mustAudit(t)
	if log := m.log.take(); !strings.Contains(log, "agrees") {
		t.Errorf("the log says\n%s", log)
	}
}

// TestAuditTellsOfDuplicates: it can't know who is right, and changes nothing.
func TestAuditTellsOfDuplicates(t *testing.T) {
	t.Parallel()
	m, l, s := newAudited(t)
	take(t, l, s, 0, 1)
	m.attach(t, pod(7), addressesOf(t, l, pod(0))...)
	for range 3 {
		m.mustAudit(t)
	}
	if who := holders(t, l); !slices.Equal(who, []string{"pod-0"}) {
		t.Errorf("held by %v", who)
	}
	if log := m.log.take(); strings.Count(log, "duplicate") != 2 || !strings.Contains(log, "live at container pod-7") {
		t.Errorf("the log says\n%s", log)
	}
}

// inUse runs fn while an ADD of the attachment seems to be running.
func (m *member) inUse(t testing.TB, a intent.Attachment, fn func()) error {
	t.Helper()
	ran := false
	err := node.Exclusively(t.Context(), m.RunDir, a, func() error {
		fn()
		ran = true
		return nil
	})
	if err == nil && !ran {
		err = errors.New("it wasn't run")
	}
	return err
}

// TestAuditOfAPodWithoutRoutes: it lives, so what it holds hasn't leaked.
func TestAuditOfAPodWithoutRoutes(t *testing.T) {
	t.Parallel()
	m, l, s := newAudited(t)
	take(t, l, s, 0, 1)
	m.attach(t, pod(0))
	for range 3 {
		m.mustAudit(t)
	}
	if who := holders(t, l); len(who) != 1 {
		t.Errorf("held by %v", who)
	}
}
