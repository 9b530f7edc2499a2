package kernel

// Decoding what the kernel answers, and what it would never answer.

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// attribute encodes one attribute, padded.
func attribute(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func word(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// routeMessage is a route of ours, as the kernel describes it.
func routeMessage(family, bits byte, kind byte, attrs ...[]byte) []byte {
	b := []byte{family, bits, 0, 0, unix.RT_TABLE_MAIN, Protocol, unix.RT_SCOPE_UNIVERSE, kind, 0, 0, 0, 0}
	for _, a := range attrs {
		b = append(b, a...)
	}
	return b
}

func TestDecodeRoute(t *testing.T) {
	t.Parallel()
	on := place{name: "vx0", index: 7}
	dst4, dst6 := []byte{10, 244, 2, 0}, netip.MustParseAddr("fd00::").AsSlice()
	tests := map[string]struct {
		message []byte
		on      place
		want    Route
		ok      bool
	}{
		"IPv4": {
			routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, attribute(unix.RTA_DST, dst4), attribute(unix.RTA_OIF, word(7)),
				attribute(unix.RTA_GATEWAY, dst4), attribute(unix.RTA_PRIORITY, word(9)), attribute(unix.RTA_PREFSRC, []byte{10, 0, 0, 1})),
			on, Route{
				Dst: netip.MustParsePrefix("10.244.2.0/24"), Link: "vx0", Via: netip.MustParseAddr("10.244.2.0"),
				Metric: 9, Source: netip.MustParseAddr("10.0.0.1"),
			}, true,
		},
		"default IPv4":         {routeMessage(unix.AF_INET, 0, unix.RTN_UNICAST, attribute(unix.RTA_OIF, word(7))), on, Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Link: "vx0"}, true},
		"default IPv6":         {routeMessage(unix.AF_INET6, 0, unix.RTN_UNICAST, attribute(unix.RTA_OIF, word(7))), on, Route{Dst: netip.MustParsePrefix("::/0"), Link: "vx0"}, true},
		"blackhole IPv6":       {routeMessage(unix.AF_INET6, 64, unix.RTN_BLACKHOLE, attribute(unix.RTA_DST, dst6), attribute(unix.RTA_OIF, word(1))), place{}, Route{Dst: netip.MustParsePrefix("fd00::/64")}, true},
		"of another link":      {routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, attribute(unix.RTA_DST, dst4), attribute(unix.RTA_OIF, word(8))), on, Route{}, false},
		"of several links":     {routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, attribute(unix.RTA_DST, dst4), attribute(unix.RTA_MULTIPATH, make([]byte, 8))), on, Route{}, false},
		"unreachable":          {routeMessage(unix.AF_INET, 24, unix.RTN_UNREACHABLE, attribute(unix.RTA_DST, dst4)), place{}, Route{}, false},
		"link's name is short": {routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, attribute(unix.RTA_DST, dst4), attribute(unix.RTA_OIF, []byte{7})), on, Route{}, false},
		"short metric":         {routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, attribute(unix.RTA_PRIORITY, []byte{7})), on, Route{}, false},
	}
	for name, tt := range tests {
		got, ok, err := decodeRoute(tt.message, tt.on)
		if err != nil || ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: %v, %t, %v; want %v, %t", name, got, ok, err, tt.want, tt.ok)
		}
	}
	for name, message := range map[string][]byte{
		"empty":               nil,
		"half a header":       make([]byte, 11),
		"attribute too long":  routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, []byte{9, 0, 1, 0, 1, 2}),
		"attribute too short": routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, []byte{3, 0, 1, 0, 1, 2}),
	} {
		if _, _, err := decodeRoute(message, on); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// errorMessage is a refusal of a request of some size.
func errorMessage(code int32, flags uint16, request int, attrs ...[]byte) syscall.NetlinkMessage {
	data := word(uint32(code))
	header := append(word(uint32(unix.SizeofNlMsghdr+request)), make([]byte, 12+align(request))...)
	data = append(data, header...)
	for _, a := range attrs {
		data = append(data, a...)
	}
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NLMSG_ERROR, Flags: flags}, Data: data}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	text := attribute(nl.NLMSGERR_ATTR_MSG, []byte("Not today\x00"))
	offset := attribute(2, word(20))
	done := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NLMSG_DONE, Flags: unix.NLM_F_ACK_TLVS}}
	failed := done
	failed.Data = append(word(^uint32(unix.EPERM)+1), text...)
	tests := map[string]struct {
		message syscall.NetlinkMessage
		want    error
		text    string
	}{
		"success":             {errorMessage(0, 0, 20), nil, ""},
		"no text":             {errorMessage(-int32(unix.EINVAL), 0, 20), unix.EINVAL, "invalid argument"},
		"text":                {errorMessage(-int32(unix.EINVAL), unix.NLM_F_ACK_TLVS, 20, text), unix.EINVAL, "invalid argument: Not today"},
		"text, later":         {errorMessage(-int32(unix.EEXIST), unix.NLM_F_ACK_TLVS, 33, offset, text), unix.EEXIST, "file exists: Not today"},
		"text, not announced": {errorMessage(-int32(unix.EINVAL), 0, 20, text), unix.EINVAL, "invalid argument"},
		"end of a dump":       {done, nil, ""},
		"dump failed":         {failed, unix.EPERM, "operation not permitted: Not today"},
	}
	for name, tt := range tests {
		err := answer(tt.message)
		if !errors.Is(err, tt.want) || err != nil && err.Error() != tt.text {
			t.Errorf("%s: %v, want %q", name, err, tt.text)
		}
	}
	short := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.NLMSG_ERROR}, Data: []byte{1}}
	if err := answer(short); err == nil || !strings.Contains(err.Error(), "1 bytes") {
		t.Errorf("short: %v", err)
	}
}

// Whatever the bytes are, decoding ends without a panic, and what it accepts
// is of the link that was asked for.
func FuzzDecodeRoute(f *testing.F) {
	f.Add(routeMessage(unix.AF_INET, 24, unix.RTN_UNICAST, attribute(unix.RTA_DST, []byte{10, 0, 0, 0}), attribute(unix.RTA_OIF, word(7))), 7)
	f.Add(routeMessage(unix.AF_INET6, 64, unix.RTN_BLACKHOLE, attribute(unix.RTA_DST, make([]byte, 16))), 0)
	f.Add(routeMessage(unix.AF_INET, 200, unix.RTN_UNICAST, attribute(unix.RTA_PRIORITY, []byte{1})), 7)
	f.Fuzz(func(t *testing.T, message []byte, index int) {
		r, ok, err := decodeRoute(message, place{name: "vx0", index: index})
		if ok && (err == nil && r.Link != "vx0") {
			t.Errorf("accepted %v", r)
		}
		_ = r.String()
		_ = r.Key()
	})
}

func FuzzAnswer(f *testing.F) {
	for _, m := range []syscall.NetlinkMessage{
		errorMessage(0, 0, 20),
		errorMessage(-22, unix.NLM_F_ACK_TLVS, 20, attribute(nl.NLMSGERR_ATTR_MSG, []byte("text\x00"))),
		errorMessage(-22, unix.NLM_F_ACK_TLVS, 21),
	} {
		f.Add(m.Header.Type, m.Header.Flags, m.Data)
	}
	f.Fuzz(func(t *testing.T, kind, flags uint16, data []byte) {
		err := answer(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Flags: flags}, Data: data})
		if err != nil && err.Error() == "" {
			t.Error("an error without a text")
		}
	})
}
