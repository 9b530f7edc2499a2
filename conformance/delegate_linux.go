package conformance

// Looking at what a plugin delegates: a program of the delegated plugin's name
// that comes first in CNI_PATH, writes down what it is given, and hands it on.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// shimStderr is what a shim writes to its standard error.
const shimStderr = "conformance: the delegated plugin was here"

// shimText records the environment as the kernel has it and the standard input,
// fails the commands that it is told to, and becomes the real plugin for others.
const shimText = `#!/bin/sh
read -r fail < '%[1]s/fail'
/bin/cat < /proc/$$/environ > "%[1]s/$$.env"
/bin/cat > "%[1]s/$$.stdin"
echo $$ >> '%[1]s/order'
echo '%[3]s' >&2
case " $fail " in *" $CNI_COMMAND "*)
	echo '{"cniVersion": "%[4]s", "code": 50, "msg": "the delegated plugin was told to fail"}'
	exit 1;;
esac
exec '%[2]s' < "%[1]s/$$.stdin"
`

// A delegation is one execution of a delegated plugin.
type delegation struct {
	command string
	env     []string
	stdin   string
}

// shim puts a shim before the delegated plugin of the plugin at a place.
func (b *bench) shim(place int) error {
	name := b.plugins[place].ipam
	genuine, err := b.find(name)
	if err != nil {
		return nothing("the delegated plugin isn't there: %v", err)
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("shim%d", place))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make shim: %w", err)
	}
	quoted := strings.ReplaceAll(genuine, "'", `'\''`)
	text := fmt.Sprintf(shimText, dir, quoted, shimStderr, b.version)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
		return fmt.Errorf("make shim: %w", err)
	}
	b.shims = dir
	return b.fail()
}

// unshim takes the shim away.
func (b *bench) unshim() { b.shims = "" }

// fail tells the shim which commands fail from now on.
func (b *bench) fail(commands ...string) error {
	return os.WriteFile(filepath.Join(b.shims, "fail"), []byte(strings.Join(commands, " ")+"\n"), 0o600)
}

// delegations returns what the shim was asked for, oldest first, and forgets
// it.
func (b *bench) delegations() ([]delegation, error) {
	order := filepath.Join(b.shims, "order")
	raw, err := os.ReadFile(order)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read shim's records: %w", err)
	}
	var all []delegation
	for _, pid := range strings.Fields(string(raw)) {
		env, err := os.ReadFile(filepath.Join(b.shims, pid+".env"))
		if err != nil {
			return nil, fmt.Errorf("read shim's records: %w", err)
		}
		stdin, err := os.ReadFile(filepath.Join(b.shims, pid+".stdin"))
		if err != nil {
			return nil, fmt.Errorf("read shim's records: %w", err)
		}
		d := delegation{env: strings.Split(strings.TrimRight(string(env), "\x00"), "\x00"), stdin: string(stdin)}
		for _, e := range d.env {
			if command, ok := strings.CutPrefix(e, "CNI_COMMAND="); ok {
				d.command = command
			}
		}
		all = append(all, d)
	}
	return all, os.Remove(order)
}

// delegated says whether a command was among those.
func delegated(all []delegation, command string) bool {
	return slices.ContainsFunc(all, func(d delegation) bool { return d.command == command })
}

// equalJSON compares two texts as JSON.
func equalJSON(one, other string) bool {
	var a, b any
	if json.Unmarshal([]byte(one), &a) != nil || json.Unmarshal([]byte(other), &b) != nil {
		return false
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
