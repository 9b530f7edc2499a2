package ctl_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/ctl"
)

func TestAuditClean(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.hold("pods", "web", "10.0.1.7", false)
	f.hold("pods", "bridged", "10.0.1.8", true)
	f.attach("pods", "web", "10.0.1.7")
	f.must(f.Audit(t.Context()))
	f.wantSaid("")
	f.Format = ctl.JSON
	f.must(f.Audit(t.Context()))
	var got []map[string]any
	f.must(json.Unmarshal([]byte(f.said()), &got))
	if want := "[map[duplicate:[] foreign:[] leaked:[] network:pods orphaned:[]] map[duplicate:[] foreign:[] leaked:[] network:storage orphaned:[]]]"; fmt.Sprint(got) != want {
		t.Errorf("got %v", got)
	}
}

func TestAuditDiffers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.hold("pods", "gone", "10.0.1.7", false)
	f.hold("pods", "web", "10.0.1.8", false)
	f.hold("pods", "moved", "10.9.9.9", true)
	f.attach("pods", "other", "10.0.1.8")
	f.attach("pods", "web", "10.0.1.9")
	f.attach("storage", "db", "10.1.1.1") // the ledger is lost
	before, err := os.ReadFile(f.Node.LedgerPath("pods"))
	f.must(err)
	want := `pods: duplicate 10.0.1.8 held by container web interface eth0, live at container other interface eth0
pods: orphaned 10.0.1.9 of container web interface eth0
pods: foreign 10.9.9.9 of container moved interface eth0
pods: leaked 10.0.1.7 of container gone interface eth0
storage: orphaned 10.1.1.1 of container db interface eth0
`
	err = f.Audit(t.Context())
	wantError(t, err, ctl.ErrDiffers, "network pods", "network storage")
	f.wantSaid(want)
	f.Format = ctl.JSON
	wantError(t, f.Audit(t.Context()), ctl.ErrDiffers)
	var got []map[string]any
	f.must(json.Unmarshal([]byte(f.said()), &got))
	if len(got) != 2 || fmt.Sprint(got[0]["duplicate"]) != "[map[address:10.0.1.8 held:[map[container:web interface:eth0]] live:[map[container:other interface:eth0]]]]" {
		t.Errorf("got %v", got)
	}
	after, err := os.ReadFile(f.Node.LedgerPath("pods"))
	f.must(err)
	if string(before) != string(after) {
		t.Error("the ledger was changed")
	}
	if _, err := os.Stat(f.Node.LedgerPath("storage")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a lost ledger was made: %v", err)
	}
}

// What is on its way makes a difference for a moment, which isn't one; and each
// look is taken anew.
func TestAuditLooksTwice(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods")
	f.hold("pods", "web", "10.0.1.7", false)
	f.hold("pods", "gone", "10.0.1.8", false)
	looks := 0
	f.Live = func(context.Context, string) ([]ipam.Allocation, error) {
		looks++
		if looks == 2 { // the interface of web has come, and db's while its address is written
			f.attach("pods", "web", "10.0.1.7")
			f.attach("pods", "db", "10.0.1.9")
		}
		return f.live["pods"], nil
	}
	wantError(t, f.Audit(t.Context()), ctl.ErrDiffers)
	f.wantSaid("pods: leaked 10.0.1.8 of container gone interface eth0\n")
	if looks != 2 {
		t.Errorf("%d looks", looks)
	}
}

func TestAuditFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "pods", "storage")
	f.hold("pods", "web", "10.0.1.7", false)
	f.hold("storage", "db", "10.1.1.7", false)
	f.corrupt("pods", 512)
	err := f.Audit(t.Context())
	wantError(t, err, ipam.ErrCorrupt, "overlayctl ipam rebuild --network pods")
	wantError(t, err, ctl.ErrDiffers, "network storage") // one that fails doesn't hide the other
	f.said()
	ctx, cancel := context.WithCancel(t.Context())
	f.Pause, f.Network = time.Hour, "storage"
	f.Live = func(context.Context, string) ([]ipam.Allocation, error) { cancel(); return nil, nil }
	wantError(t, f.Audit(ctx), context.Canceled)
	broken := errors.New("no netlink")
	f.Live = func(context.Context, string) ([]ipam.Allocation, error) { return nil, broken }
	wantError(t, f.Audit(t.Context()), broken, "storage")
}
