package conformance

// What attachments leave behind: in the kernel of the node and of the
// container, and in files.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// A ground is what a machine has when nothing is attached: what belongs to the
// network, such as a bridge, and not to an attachment.
type ground struct {
	node, container lab.Snapshot
	journals        map[string]bool // files that name what was deleted in good order
}

// newGround attaches and deletes a container, and writes down what there is
// then.
func (b *bench) newGround(ctx context.Context) (*ground, error) {
	a, err := b.attach(ctx)
	if err != nil {
		return nil, err
	}
	if x := b.all(ctx, "DEL", a); x.Status != 0 {
		return nil, nothing("%s DEL failed%s", x.Plugin, x.said())
	}
	g := &ground{journals: map[string]bool{}}
	files, err := b.machine.naming(a)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		g.journals[f] = true
	}
	empty, err := b.newContainer()
	if err != nil {
		return nil, err
	}
	if g.container, err = snapshot(empty.Host); err != nil {
		return nil, err
	}
	if g.node, err = b.nodeState(ctx); err != nil {
		return nil, err
	}
	return g, errors.Join(empty.Close(), b.forget(a))
}

// nodeState is what the node's kernel has.
func (b *bench) nodeState(ctx context.Context) (lab.Snapshot, error) {
	s, err := snapshot(b.machine.node.Host)
	if err != nil {
		return nil, err
	}
	for i := range s {
		s[i] = steady(s[i])
	}
	legacy, err := b.legacyRules(ctx)
	return append(s, legacy...), err
}

// steady is a line of a snapshot without what changes by itself: a bridge that
// nobody gave a hardware address has that of one of its ports, and forwards it
// to itself.
func steady(line string) string {
	words := strings.Fields(line)
	switch {
	case len(words) > 2 && words[0] == "link" && words[2] == "bridge":
		return regexp.MustCompile(` mac \S*`).ReplaceAllString(line, "")
	case len(words) == 5 && words[0] == "fdb" && words[3] == "master" && words[1] == words[4]:
		return "fdb of bridge " + words[1]
	}
	return line
}

// legacyRules are those of iptables before nftables. Which tables are in use is
// asked first, as to ask for the rules of one brings it into use.
func (b *bench) legacyRules(ctx context.Context) (lab.Snapshot, error) {
	var lines lab.Snapshot
	for family, program := range map[string]string{"ip_tables_names": "iptables-legacy-save", "ip6_tables_names": "ip6tables-legacy-save"} {
		var used []byte
		err := b.machine.node.Do(func() (err error) {
			used, err = os.ReadFile("/proc/thread-self/net/" + family)
			return err
		})
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(used) == 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read tables of iptables: %w", err)
		}
		var out bytes.Buffer
		cmd := exec.CommandContext(ctx, program)
		cmd.Stdout = &out
		if err := b.machine.start(cmd); err != nil {
			return nil, fmt.Errorf("list rules of iptables: %w", err)
		}
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("list rules of iptables: %w", err)
		}
		lines = append(lines, savedRules(program, out.String())...)
	}
	return lines, nil
}

// savedRules are the lines of iptables-save without comments and counters.
func savedRules(program, text string) lab.Snapshot {
	counters := regexp.MustCompile(` \[\d+:\d+\]$`)
	var lines lab.Snapshot
	for _, line := range strings.Split(text, "\n") {
		if line == "" || line == "COMMIT" || line[0] == '#' {
			continue
		}
		lines = append(lines, program+" "+counters.ReplaceAllString(line, ""))
	}
	return lines
}

// left says what there is more than on the ground.
func (b *bench) left(ctx context.Context, g *ground, all ...*attachment) ([]string, error) {
	now, err := b.nodeState(ctx)
	if err != nil {
		return nil, err
	}
	left := more(g.node, now, "the node has ")
	for _, a := range all {
		inside, err := snapshot(a.container.Host)
		if errors.Is(err, lab.ErrDown) {
			continue // the container is gone
		}
		if err != nil {
			return nil, err
		}
		left = append(left, more(g.container, inside, "the container has ")...)
	}
	files, err := b.machine.naming(all...)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if !g.journals[f] {
			left = append(left, f+" names the container")
		}
	}
	return left, nil
}

// more is what a later snapshot has and the earlier one hasn't.
func more(earlier, later lab.Snapshot, prefix string) []string {
	var lines []string
	for _, line := range earlier.Diff(later) {
		if added, ok := strings.CutPrefix(line, "+ "); ok {
			lines = append(lines, prefix+added)
		}
	}
	return lines
}

// leavesGround is violated by what attachments have left. The kernel takes some
// things away in its own time, so that one looks more than once.
func (b *bench) leavesGround(ctx context.Context, g *ground, x *Exchange, when string, all ...*attachment) error {
	return until(ctx, func() error {
		left, err := b.left(ctx, g, all...)
		if err != nil || len(left) == 0 {
			return err
		}
		return x.violated("%s: %s", when, strings.Join(left, "; "))
	})
}

// naming returns the files in the state folders that name one of the
// containers, in their own name or in what they hold.
func (m *machine) naming(all ...*attachment) ([]string, error) {
	var names [][]byte
	for _, a := range all {
		const telling = 12 // digits of an ID that nothing else has
		names = append(names, []byte(a.container.ContainerID()[:telling]))
	}
	var found []string
	err := m.inside(func() error {
		for _, dir := range stateFolders() {
			files, err := filesNaming(dir, m.keep, names)
			if err != nil {
				return fmt.Errorf("search %s: %w", dir, err)
			}
			found = append(found, files...)
		}
		return nil
	})
	return found, err
}

// filesNaming walks through a folder, but not through some that are in it.
func filesNaming(root string, skipped []string, names [][]byte) ([]string, error) {
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(skipped, path) {
			return fs.SkipDir
		}
		held, err := held(path, d)
		if err != nil {
			return err
		}
		text := append([]byte(d.Name()+"\x00"), held...)
		if slices.ContainsFunc(names, func(n []byte) bool { return bytes.Contains(text, n) }) {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// held is what a file holds, up to a size that no state has, or where a link
// points to.
func held(path string, d fs.DirEntry) ([]byte, error) {
	const most = 16 << 20
	var text []byte
	var err error
	switch {
	case d.Type()&fs.ModeSymlink != 0:
		var target string
		target, err = os.Readlink(path)
		text = []byte(target)
	case d.Type().IsRegular():
		var f *os.File
		if f, err = os.Open(path); err == nil {
			defer func() { _ = f.Close() }()
			text, err = io.ReadAll(io.LimitReader(f, most))
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}
