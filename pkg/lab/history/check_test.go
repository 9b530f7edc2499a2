package history_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/history"
)

// script writes a history down: each event is a millisecond after the one
// before. A call's number follows from its name.
type script struct{ events []history.Event }

func (s *script) event(call int, v history.Verb, p history.Phase, who string, addresses ...string) *script {
	e := history.Event{Time: time.Duration(len(s.events)) * time.Millisecond, Call: call, Verb: v, Phase: p}
	e.Attachment.Node, e.Attachment.Pod, _ = strings.Cut(who, "/")
	for _, a := range addresses {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
	}
	s.events = append(s.events, e)
	return s
}

func (s *script) add(call int, p history.Phase, who string, addresses ...string) *script {
	return s.event(call, history.Add, p, who, addresses...)
}

// added is a whole ADD.
func (s *script) added(call int, who string, addresses ...string) *script {
	return s.add(call, history.Invoked, who).add(call, history.OK, who, addresses...)
}

func (s *script) del(call int, p history.Phase, who string) *script {
	return s.event(call, history.Del, p, who)
}

func (s *script) lose(call int, p history.Phase, node string) *script {
	return s.event(call, history.Lose, p, node)
}

func begin() *script { return &script{} }

const (
	invoked, ok, failed, unknown = history.Invoked, history.OK, history.Failed, history.Unknown

	x, y = "10.0.0.1", "10.0.0.2"
	six  = "fd00::1"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	type violations = map[history.Rule][]string // addresses by rule
	for name, test := range map[string]struct {
		script *script
		want   violations
	}{
		"nothing":                      {begin(), nil},
		"two addresses":                {begin().added(1, "n1/a", x, six).added(2, "n2/b", y), nil},
		"given again after DEL":        {begin().added(1, "n1/a", x).del(2, invoked, "n1/a").del(2, ok, "n1/a").added(3, "n2/b", x), nil},
		"given again during DEL":       {begin().added(1, "n1/a", x).del(2, invoked, "n1/a").added(3, "n2/b", x).del(2, ok, "n1/a"), nil},
		"given again after failed DEL": {begin().added(1, "n1/a", x).del(2, invoked, "n1/a").del(2, failed, "n1/a").added(3, "n2/b", x), nil},
		"given again after killed DEL": {begin().added(1, "n1/a", x).del(2, invoked, "n1/a").del(2, unknown, "n1/a").added(3, "n2/b", x), nil},
		"given again during loss":      {begin().added(1, "n1/a", x).lose(2, invoked, "n1").added(3, "n1/b", x).lose(2, ok, "n1"), nil},
		"given again after loss":       {begin().added(1, "n1/a", x).lose(2, invoked, "n1").lose(2, ok, "n1").added(3, "n1/b", x), nil},
		"ADD returned during loss": {begin().add(1, invoked, "n1/a").lose(2, invoked, "n1").add(1, ok, "n1/a", x).
			lose(2, ok, "n1").added(3, "n1/b", x), nil},
		"ADD invoked and returned during loss": {begin().lose(2, invoked, "n1").added(1, "n1/a", x).
			lose(2, ok, "n1").added(3, "n1/b", x), nil},
		"DEL during ADD": {begin().add(1, invoked, "n1/a").del(2, invoked, "n1/a").add(1, ok, "n1/a", x).
			del(2, ok, "n1/a").added(3, "n2/b", x), nil},
		"killed ADD holds nothing": {begin().add(1, invoked, "n1/a").add(1, unknown, "n1/a").added(2, "n2/b", x), nil},
		"ADD without end":          {begin().add(1, invoked, "n1/a").added(2, "n2/b", x), nil},
		"same attachment again":    {begin().added(1, "n1/a", x).added(2, "n1/a", x), nil},

		"two pods of a node":  {begin().added(1, "n1/a", x).added(2, "n1/b", x), violations{history.Shared: {x}}},
		"pods of two nodes":   {begin().added(1, "n1/a", x).added(2, "n2/a", x), violations{history.Shared: {x}}},
		"both families":       {begin().added(1, "n1/a", x, six).added(2, "n2/b", six, x), violations{history.Shared: {x, six}}},
		"DEL comes too late":  {begin().added(1, "n1/a", x).added(2, "n1/b", x).del(3, invoked, "n1/a").del(3, ok, "n1/a"), violations{history.Shared: {x}}},
		"DEL of another":      {begin().added(1, "n1/a", x).del(2, invoked, "n1/c").del(2, ok, "n1/c").added(3, "n1/b", x), violations{history.Shared: {x}}},
		"DEL of a namesake":   {begin().added(1, "n1/a", x).del(2, invoked, "n2/a").del(2, ok, "n2/a").added(3, "n1/b", x), violations{history.Shared: {x}}},
		"loss of another":     {begin().added(1, "n1/a", x).lose(2, invoked, "n2").lose(2, ok, "n2").added(3, "n1/b", x), violations{history.Shared: {x}}},
		"DEL before the ADD":  {begin().del(1, invoked, "n1/a").del(1, ok, "n1/a").added(2, "n1/a", x).added(3, "n1/b", x), violations{history.Shared: {x}}},
		"loss before the ADD": {begin().lose(1, invoked, "n1").lose(1, ok, "n1").added(2, "n1/a", x).added(3, "n1/b", x), violations{history.Shared: {x}}},
		"first holds longest": {begin().added(1, "n1/a", x).added(2, "n1/b", x).del(3, invoked, "n1/b").del(3, ok, "n1/b").
			added(4, "n1/c", x), violations{history.Shared: {x, x}}},

		"outside":  {begin().added(1, "n1/a", "10.0.1.1", six), violations{history.Outside: {"10.0.1.1"}}},
		"repeated": {begin().added(1, "n1/a", x, x), violations{history.Repeated: {x}}},

		"end without begin": {begin().add(1, ok, "n1/a", x), violations{history.Malformed: {""}}},
		"two begins":        {begin().add(1, invoked, "n1/a").add(1, invoked, "n1/a"), violations{history.Malformed: {""}}},
		"two ends":          {begin().added(1, "n1/a", x).add(1, failed, "n1/a"), violations{history.Malformed: {""}}},
		"end of another":    {begin().add(1, invoked, "n1/a").add(1, ok, "n1/b", x), violations{history.Malformed: {""}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cidrs := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/120")}
			for range 2 { // the order of events is that of their times
				got := history.Check(cidrs, test.script.events)
				count := 0
				for rule, addresses := range test.want {
					count += len(addresses)
					if found := of(rule, got); !slices.Equal(found, addresses) {
						t.Errorf("%s: %q, want %q", rule, found, addresses)
					}
				}
				if len(got) != count {
					t.Errorf("%d violations, want %d:\n%v", len(got), count, got)
				}
				slices.Reverse(test.script.events)
			}
		})
	}
}

// of are the addresses of a rule's violations.
func of(rule history.Rule, violations []history.Violation) (addresses []string) {
	for _, v := range violations {
		switch {
		case v.Rule != rule:
		case v.Address.IsValid():
			addresses = append(addresses, v.Address.String())
		default:
			addresses = append(addresses, "")
		}
	}
	return addresses
}

func TestViolationShowsItsEvents(t *testing.T) {
	t.Parallel()
	s := begin().added(1, "n1/a", x, six).added(2, "n2/b", x).del(3, invoked, "n1/a").del(3, ok, "n1/a")
	got := history.Check([]netip.Prefix{netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")}, s.events)
	const want = "address is shared 10.0.0.1\n" +
		"  1ms ADD n1/a ok [10.0.0.1 fd00::1]\n" +
		"  3ms ADD n2/b ok [10.0.0.1]\n" +
		"  4ms DEL n1/a invoked"
	if len(got) != 1 || got[0].String() != want {
		t.Errorf("%v, want\n%s", got, want)
	}
}
