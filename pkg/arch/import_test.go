package arch_test

import (
	"strings"
	"testing"
)

// effects are packages by which a program does something to its system.
func effects() []string {
	return []string{
		"os/exec", "net/http",
		"golang.org/x/sys/...", "github.com/vishvananda/...", "github.com/google/nftables/...",
		"github.com/coreos/go-iptables/...", "github.com/mdlayher/...", "github.com/fsnotify/...",
	}
}

// isOne says whether an import path is one of the given; "..." stands for all
// below, and the path itself.
func isOne(path string, patterns []string) bool {
	for _, p := range patterns {
		prefix, all := strings.CutSuffix(p, "/...")
		if path == prefix || all && strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// with are the patterns and more.
func with(patterns []string, more ...string) []string { return append(patterns, more...) }

// TestPurePackages: what decides has no effects. Each of these packages imports
// none itself, on any system, and nothing that has some where the kernel's
// files aren't compiled: what a plan needs of the kernel is its values.
func TestPurePackages(t *testing.T) {
	t.Parallel()
	rules := []struct {
		path        string
		mustNot     []string // import itself
		mustNotLink []string // on no system, by whatever way
	}{
		{"pkg/ether", with(effects(), "os"), effects()},
		{"pkg/reconcile", with(effects(), "os", "net"), with(effects(), "os/user", "net", module+"/...")},
		{"pkg/store", with(effects(), "os", "net"), with(effects(), "net", module+"/...")},
		{"pkg/lease", with(effects(), "os", "net", module+"/pkg/store/local"), with(effects(), module+"/pkg/store/local")},
		{"pkg/intent", with(effects(), "os", "net", module+"/pkg/store/..."), nil},
		{"pkg/netlinkplan", with(effects(), "os", "net", module+"/pkg/store/..."), nil},
		{"pkg/config", effects(), nil}, // it asks for the host's name
		{"pkg/nodestate", effects(), nil},
		{"pkg/agent", without(effects(), "net/http"), nil},
		{"ipam", without(effects(), "golang.org/x/sys/..."), append(without(effects(), "golang.org/x/sys/..."), module+"/pkg/lease", module+"/pkg/store/...")},
		{"ipam/space", with(effects(), module+"/pkg/store/local"), append(without(effects(), "golang.org/x/sys/..."), module+"/pkg/lease", module+"/pkg/config", module+"/pkg/store/local")},
	}
	byPath := map[string]map[string]*pkg{"linux": {}, "windows": {}}
	for system, packages := range byPath {
		all := list(t, system, "./...")
		for i := range all {
			packages[all[i].path()] = &all[i]
		}
	}
	for _, r := range rules {
		t.Run(r.path, func(t *testing.T) {
			t.Parallel()
			for system, packages := range byPath {
				p := packages[r.path]
				if p == nil {
					t.Fatalf("there is no such package on %s", system)
				}
				for _, path := range p.Imports {
					if isOne(path, r.mustNot) {
						t.Errorf("on %s it imports %s", system, path)
					}
				}
				for _, path := range p.Deps {
					if isOne(path, r.mustNotLink) {
						t.Errorf("on %s it links %s", system, path)
					}
				}
			}
		})
	}
	// The kernel's values and the packet filter's rules are pure where their
	// files for Linux aren't compiled.
	for _, path := range []string{"pkg/intent", "pkg/netlinkplan", "pkg/vtep", "pkg/kernel", "pkg/firewall", "pkg/nodestate"} {
		for _, dep := range byPath["windows"][path].Deps {
			if isOne(dep, effects()) {
				t.Errorf("but for its files for Linux, %s links %s", path, dep)
			}
		}
	}
}

// without are the patterns but for one that a package is there for.
func without(patterns []string, less string) []string {
	var kept []string
	for _, p := range patterns {
		if p != less {
			kept = append(kept, p)
		}
	}
	return kept
}

// TestOnlyMainsChooseAStore: who uses a store is given one.
func TestOnlyMainsChooseAStore(t *testing.T) {
	t.Parallel()
	may := map[string]bool{"pkg/cni": true, "pkg/node": true, "pkg/daemon": true, "pkg/lab/cluster": true} // what mains call
	for _, p := range list(t, "linux", "./...") {
		for _, path := range p.Imports {
			if path == module+"/pkg/store/local" && !may[p.path()] && !strings.HasPrefix(p.path(), "plugins/") {
				t.Errorf("%s chooses the embedded store", p.path())
			}
		}
	}
}

// TestTestPackagesStayInTests: nothing that is installed links a lab or a suite.
func TestTestPackagesStayInTests(t *testing.T) {
	t.Parallel()
	for _, p := range list(t, "linux", "./plugins/overlay-vxlan", "./plugins/overlayd", "./ipam/overlay-ipam") {
		for _, path := range p.Deps {
			if path == "testing" || isOne(path, []string{module + "/pkg/lab/...", module + "/pkg/store/storetest", "pgregory.net/..."}) {
				t.Errorf("%s links %s", p.path(), path)
			}
		}
	}
}

// TestPluginIsSmall: what the runtime executes for every pod links no client
// of a server, and no module that isn't named here.
func TestPluginIsSmall(t *testing.T) {
	t.Parallel()
	for _, plugin := range []struct {
		path    string
		modules []string
	}{
		{"plugins/overlay-vxlan", []string{
			"github.com/containernetworking/cni", "github.com/coreos/go-iptables", "github.com/fsnotify/fsnotify",
			"github.com/google/nftables", "github.com/mdlayher/netlink", "github.com/mdlayher/socket",
			"github.com/vishvananda/netlink", "github.com/vishvananda/netns",
			"golang.org/x/net", "golang.org/x/sync", "golang.org/x/sys",
		}},
		{"ipam/overlay-ipam", nil}, // the same, or less
	} {
		t.Run(plugin.path, func(t *testing.T) {
			t.Parallel()
			never := []string{
				"net/http", "net/rpc", "crypto/tls", "testing", "html/template", "golang.org/x/net/http2/...",
				"k8s.io/...", "sigs.k8s.io/...", "google.golang.org/...", "go.etcd.io/...", "go.yaml.in/...",
				"github.com/prometheus/...", "go.opentelemetry.io/...",
				module + "/pkg/agent", module + "/pkg/daemon", module + "/pkg/store/etcd", module + "/pkg/store/kube",
			}
			packages := list(t, "linux", "-deps", "./"+plugin.path)
			for i := range packages {
				p := &packages[i]
				if isOne(p.ImportPath, never) {
					t.Errorf("it links %s", p.ImportPath)
				}
				// golang.org/x/net is there for nftables' BPF instructions alone.
				if strings.HasPrefix(p.ImportPath, "golang.org/x/net/") && p.ImportPath != "golang.org/x/net/bpf" {
					t.Errorf("it links %s", p.ImportPath)
				}
				if p.Standard || p.Module == nil || p.Module.Path == module || plugin.modules == nil {
					continue
				}
				if !isOne(p.Module.Path, plugin.modules) {
					t.Errorf("it links module %s by %s", p.Module.Path, p.ImportPath)
				}
			}
		})
	}
}

// TestPluginSize: executing a file takes longer the larger it is.
func TestPluginSize(t *testing.T) {
	t.Parallel()
	const most = 8 << 20
	for _, path := range []string{"plugins/overlay-vxlan", "ipam/overlay-ipam"} {
		size := build(t.Context(), t, path)
		t.Logf("%s: %.1f MB", path, float64(size)/(1<<20))
		if size > most {
			t.Errorf("%s has %d bytes, more than %d", path, size, most)
		}
	}
}
