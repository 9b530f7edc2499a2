package conformance_test

// A plugin that does everything right but for one thing: the test binary,
// executed by a name such as fake-main.gc-nothing. There are an interface
// plugin, a chained one and an IPAM plugin.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if name := filepath.Base(os.Args[0]); strings.HasPrefix(name, "fake-") {
		if name == "fake-child" {
			os.Exit(playChild())
		}
		os.Exit(playPlugin(name))
	}
	os.Exit(m.Run())
}

type object = map[string]any

// fake is one execution of the plugin.
type fake struct {
	role, wrong string
	conf        object
	raw         []byte
	version     string
	out         io.Writer
}

// refusal is an error of CNI.
type refusal struct {
	code int
	text string
	raw  string // printed as it is
}

func (r *refusal) Error() string { return r.text }

func refuse(code int, format string, args ...any) error {
	return &refusal{code: code, text: fmt.Sprintf(format, args...)}
}

func playPlugin(name string) int {
	role, wrong, _ := strings.Cut(strings.TrimPrefix(name, "fake-"), ".")
	f := &fake{role: role, wrong: wrong, version: "1.1.0", out: os.Stdout}
	err := f.run()
	if err == nil {
		return 0
	}
	var r *refusal
	if !errors.As(err, &r) {
		r = &refusal{code: 100, text: err.Error()}
	}
	f.print(r)
	if f.wrong == "status0" {
		return 0
	}
	return 1
}

// print prints an error.
func (f *fake) print(r *refusal) {
	switch {
	case r.raw != "":
		fmt.Fprint(f.out, r.raw)
		return
	case f.wrong == "plain-errors", f.wrong == "status-plain" && r.code == 50:
		fmt.Fprint(f.out, r.text)
		return
	case f.wrong == fmt.Sprintf("code-%d", r.code):
		r.code += 100
	case f.wrong == "code-reserved":
		r.code = 99
	case f.wrong == "vague" && (r.code == 4 || r.code == 2):
		r.text = "something is wrong"
	}
	e := object{"cniVersion": f.version, "code": r.code, "msg": r.text}
	switch f.wrong {
	case "error-keys":
		delete(e, "cniVersion")
	case "error-version":
		e["cniVersion"] = "0.1.0"
	}
	_ = json.NewEncoder(f.out).Encode(e)
}

func (f *fake) run() error {
	command := os.Getenv("CNI_COMMAND")
	var err error
	if f.raw, err = io.ReadAll(os.Stdin); err != nil {
		return refuse(5, "read standard input: %v", err)
	}
	if json.Unmarshal(f.raw, &f.conf) != nil {
		return refuse(6, "standard input can't be decoded")
	}
	version, ok := f.conf["cniVersion"].(string)
	if !ok {
		return refuse(6, "cniVersion can't be decoded")
	}
	if command == "VERSION" {
		return f.printVersion(version)
	}
	if !slices.Contains(versions, version) || f.wrong == "version-lies" && version == "0.3.0" {
		return refuse(1, "cniVersion %s isn't supported", version)
	}
	f.version = version
	verbs := map[string]func() error{"ADD": f.add, "DEL": f.del, "CHECK": f.check, "STATUS": f.status, "GC": f.gc}
	verb := verbs[command]
	if verb == nil {
		return refuse(4, "CNI_COMMAND %q isn't known", command)
	}
	if err := f.validate(command); err != nil {
		return err
	}
	f.slow(command)
	return verb()
}

var (
	versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}
	word     = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
)

func (f *fake) printVersion(version string) error {
	o := object{"cniVersion": version, "supportedVersions": versions}
	switch f.wrong {
	case "version-plain":
		return &refusal{raw: "1.1.0"}
	case "version-keys":
		delete(o, "supportedVersions")
	case "version-fixed":
		o["cniVersion"] = "1.1.0"
	}
	return json.NewEncoder(f.out).Encode(o)
}

// validate looks at the environment and at what all plugins know of the
// configuration.
func (f *fake) validate(command string) error {
	required := map[string][]string{
		"ADD": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}, "CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
		"DEL": {"CNI_CONTAINERID", "CNI_IFNAME"},
	}[command]
	if f.wrong == "del-netns-unset" {
		required = append(required, "CNI_NETNS")
	}
	for _, name := range required {
		if os.Getenv(name) == "" {
			return refuse(4, "%s is missing", name)
		}
	}
	if id := os.Getenv("CNI_CONTAINERID"); len(required) > 0 && !word.MatchString(id) && f.wrong != "id" {
		return refuse(4, "CNI_CONTAINERID is %q", id)
	}
	if name, _ := f.conf["name"].(string); !word.MatchString(name) {
		return refuse(7, "name is %q", name)
	}
	return f.validateAdd(command)
}

// validateAdd is where a plugin may be pickier than it may be.
func (f *fake) validateAdd(command string) error {
	if command != "ADD" {
		return nil
	}
	args, _ := os.LookupEnv("CNI_ARGS")
	unknown := f.conf["conformanceUnknown"]
	switch {
	case f.wrong == "large" && len(f.raw) > 1<<19:
		return refuse(7, "the configuration is too large")
	case f.wrong == "unknown-plain" && unknown != nil:
		return &refusal{raw: "unknown field"}
	case (f.wrong == "vague" || f.wrong == "refuse-unknown") && unknown != nil:
		return refuse(2, "unknown field conformanceUnknown: %v", unknown)
	case f.wrong == "args" && args != "":
		return refuse(4, "CNI_ARGS %q", args)
	case f.wrong == "args-plain" && strings.Contains(args, "CONFORMANCE"):
		return &refusal{raw: "unknown argument"}
	}
	return nil
}

// play calls what a role does for a verb; others do nothing.
func (f *fake) play(roles map[string]func() error) error {
	if fn := roles[f.role]; fn != nil {
		return fn()
	}
	return nil
}

func (f *fake) add() error {
	return f.play(map[string]func() error{"main": f.addMain, "chain": f.addChain, "ipam": f.addIPAM})
}

func (f *fake) del() error {
	return f.play(map[string]func() error{"main": f.delMain, "chain": f.delChain, "ipam": f.delIPAM})
}

func (f *fake) check() error {
	return f.play(map[string]func() error{"main": f.checkMain, "ipam": f.checkIPAM})
}

func (f *fake) gc() error {
	return f.play(map[string]func() error{"main": f.gcMain, "ipam": f.gcIPAM})
}

func (f *fake) status() error {
	return f.play(map[string]func() error{"main": f.statusMain, "ipam": f.statusIPAM})
}

// addChain changes nothing, so it prints what it was given.
func (f *fake) addChain() error {
	r, _ := f.conf["prevResult"].(object)
	r = maps.Clone(r)
	switch f.wrong {
	case "swallow":
		r = object{}
	case "drop-dns":
		delete(r, "dns")
	}
	r["cniVersion"] = f.version
	return json.NewEncoder(f.out).Encode(r)
}

// delChain has nothing to undo.
func (f *fake) delChain() error {
	if f.wrong == "del-prev" && f.conf["prevResult"] == nil {
		return refuse(7, "prevResult is missing")
	}
	return nil
}

// attachment is a name for what is being added.
func attachment() string { return os.Getenv("CNI_CONTAINERID") + "_" + os.Getenv("CNI_IFNAME") }

// listed are the attachments in the list of GC.
func (f *fake) listed() []string {
	all, _ := f.conf["cni.dev/valid-attachments"].([]any)
	var names []string
	for _, one := range all {
		o, _ := one.(object)
		names = append(names, fmt.Sprintf("%v_%v", o["containerID"], o["ifname"]))
	}
	return names
}
