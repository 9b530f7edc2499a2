package cni_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/cluster/clustertest"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// TestReadmeByHand runs the commands that the README walks through, on a node
// whose /etc/cni, /run and /var/lib are its own.
func TestReadmeByHand(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- by hand.*?-->\n```bash\n(.*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("README.md has no block of commands that is marked \"by hand\"")
	}
	n := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	script := `set -eu -o pipefail
for dir in /etc/cni /run /var/lib/cni /var/lib/overlay-cni; do mkdir -p $dir; mount -t tmpfs tmpfs $dir; done
work=$(mktemp -d); mount -t tmpfs tmpfs $work; cd $work
mkdir -p bin; cp "$OVERLAY_TEST_BIN"/overlay-* bin/; mkdir bin/peers; cp "$OVERLAY_TEST_PEERS"/* bin/peers/
trap 'cd /; umount $work; rmdir $work' EXIT
` + string(block[1]) + `
echo "left: $(ip -o link show type veth | grep -c ovp || true) interfaces"
`
	cmd := n.Command(t.Context(), "unshare", "--mount", "bash", "-c", script)
	cmd.Env = append(os.Environ(), "OVERLAY_TEST_BIN="+clustertest.Bin(t), "OVERLAY_TEST_PEERS="+clustertest.Peers(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, text := range []string{"10.244.", "1 received", "missing: route 0.0.0.0/0", "CHECK found what is wrong", "left: 0 interfaces"} {
		if !strings.Contains(string(out), text) {
			t.Errorf("the output doesn't contain %q:\n%s", text, out)
		}
	}
}
