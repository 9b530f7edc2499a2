package ether_test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/ether"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ in, want string }{
		{"0e:2a:00:00:00:01", "0e:2a:00:00:00:01"},
		{"0E:2A:00:00:00:0F", "0e:2a:00:00:00:0f"},
		{"0e-2a-00-00-00-01", "0e:2a:00:00:00:01"},
		{"0e2a.0000.0001", "0e:2a:00:00:00:01"},
		{"00:00:00:00:00:00", "none"},
		{"", ""},
		{"none", ""},
		{"0e:2a", ""},
		{"0e:2a:00:00:00:00:00:01", ""},
		{"0e:2a:00:00:00:01 ", ""},
		{"0g:2a:00:00:00:01", ""},
	} {
		a, err := ether.Parse(test.in)
		switch {
		case test.want == "" && (err == nil || a != ether.Addr{} || !strings.Contains(err.Error(), `"`+test.in+`"`)):
			t.Errorf("%q: got %s, %v, want an error that names it", test.in, a, err)
		case test.want != "" && (err != nil || a.String() != test.want):
			t.Errorf("%q: got %s, %v, want %s", test.in, a, err, test.want)
		}
	}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	for length := range 10 {
		hw := make(net.HardwareAddr, length)
		for i := range hw {
			hw[i] = byte(2 * i)
		}
		a, ok := ether.From(hw)
		if ok != (length == 6) || ok && a.HardwareAddr().String() != hw.String() {
			t.Errorf("of %d bytes: got %s, %t", length, a, ok)
		}
	}
}

func TestIsValid(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"0e:00:00:00:00:00": true, "00:00:00:00:00:01": true, "fe:ff:ff:ff:ff:ff": true,
		"00:00:00:00:00:00": false, "01:00:5e:00:00:01": false, "ff:ff:ff:ff:ff:ff": false, "0f:00:00:00:00:01": false,
	} {
		a, err := ether.Parse(text)
		if err != nil || a.IsValid() != want {
			t.Errorf("%s: an interface may have it: %t, %v, want %t", text, a.IsValid(), err, want)
		}
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	a := ether.Local([5]byte{1, 2, 3, 4, 0xff})
	if a.String() != "0e:01:02:03:04:ff" || !a.IsValid() || a[0]&2 == 0 {
		t.Errorf("got %s", a)
	}
	if ether.Local([5]byte{}) == (ether.Addr{}) {
		t.Error("zeros make no address")
	}
}

// TestHardwareAddrIsACopy: who changes the slice doesn't change the value.
func TestHardwareAddrIsACopy(t *testing.T) {
	t.Parallel()
	a := ether.Local([5]byte{1, 2, 3, 4, 5})
	a.HardwareAddr()[0] = 0xff
	if a[0] != 0x0e {
		t.Error("the value changed")
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	type document struct {
		MAC ether.Addr `json:"mac"`
	}
	for _, test := range []struct {
		a    ether.Addr
		want string
	}{{ether.Local([5]byte{1, 2, 3, 4, 5}), `{"mac":"0e:01:02:03:04:05"}`}, {ether.Addr{}, `{"mac":""}`}} {
		text, err := json.Marshal(document{test.a})
		if err != nil || string(text) != test.want {
			t.Errorf("%s is written as %s, %v", test.a, text, err)
		}
		back := document{ether.Addr{9}}
		if err := json.Unmarshal(text, &back); err != nil || back.MAC != test.a {
			t.Errorf("%s is read as %s, %v", text, back.MAC, err)
		}
	}
	var d document
	if err := json.Unmarshal([]byte(`{"mac":"none"}`), &d); err == nil {
		t.Error("none was read as an address")
	}
}

// FuzzParse: what is read is written and read again as the same.
func FuzzParse(f *testing.F) {
	f.Add("0e:2a:00:00:00:01")
	f.Add("0e2a.0000.0001")
	f.Add("00-00-00-00-00-00")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ether.Parse(s)
		if err != nil || a == (ether.Addr{}) {
			return
		}
		if again, err := ether.Parse(a.String()); err != nil || again != a {
			t.Errorf("%q is %s, which is %s, %v", s, a, again, err)
		}
	})
}
