package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/containernetworking/cni/pkg/types"
)

// Process is a plugin's process: what a runtime gives it and hears from it. It
// is the protocol of the specification's section 2, for any plugin.
type Process struct {
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// NewProcess returns the process that this is.
func NewProcess(stdout, stderr io.Writer) *Process {
	return &Process{Getenv: os.Getenv, Stdin: os.Stdin, Stdout: stdout, Stderr: stderr}
}

// Args are the parameters of one call of a verb.
type Args struct {
	Container string // CNI_CONTAINERID
	Netns     string // CNI_NETNS
	Interface string // CNI_IFNAME
	Extra     string // CNI_ARGS
	Stdin     []byte // the network configuration
}

// Verbs are what a plugin does. VERSION needs none.
type Verbs struct {
	Add, Del, Check, Status, GC func(context.Context, *Args) error
}

// versions are those of the specification that we speak, oldest first.
func versions() []string { return []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// newest is the version of what is said before the configuration's is known.
const newest = "1.1.0"

// deadline bounds one call, so that a node in trouble answers instead of
// keeping the runtime waiting.
const deadline = 90 * time.Second

// verb is a verb with what it needs.
type verb struct {
	call func(context.Context, *Args) error
	// since is the version that brought it.
	since string
	// attachment: CNI_CONTAINERID and CNI_IFNAME are needed; netns: CNI_NETNS
	// too.
	attachment, netns bool
}

func (v Verbs) named(command string) (verb, bool) {
	all := map[string]verb{
		"ADD":    {call: v.Add, attachment: true, netns: true},
		"CHECK":  {call: v.Check, since: "0.4.0", attachment: true, netns: true},
		"DEL":    {call: v.Del, attachment: true},
		"GC":     {call: v.GC, since: "1.1.0"},
		"STATUS": {call: v.Status, since: "1.1.0"},
	}
	found, ok := all[command]
	return found, ok
}

// Run reads the call, makes it, and returns the exit status. Run by hand,
// without a call, the plugin says what it is.
func (p *Process) Run(about string, verbs Verbs) int {
	command := p.Getenv("CNI_COMMAND")
	var err error
	version := newest
	switch command {
	case "":
		fmt.Fprintf(p.Stderr, "%s\nCNI versions: %s\n", about, strings.Join(versions(), ", "))
		err = types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_COMMAND is not set", "")
	case "VERSION":
		// As text: encoding it would be a tenth of the time that this takes.
		_, err = fmt.Fprintf(p.Stdout, `{"cniVersion": %q, "supportedVersions": ["%s"]}`+"\n", p.asked(), strings.Join(versions(), `", "`))
	default:
		version, err = p.call(command, verbs)
	}
	if err == nil {
		return 0
	}
	if err := PrintError(p.Stdout, version, toCNI(err)); err != nil {
		fmt.Fprintln(p.Stderr, err)
	}
	return 1
}

// asked is the version in which VERSION is asked, and so answered; our newest
// where it isn't said, or not ours. Whoever asks need not close the input: its
// first object is all that counts.
func (p *Process) asked() string {
	var c versioned
	if err := json.NewDecoder(p.Stdin).Decode(&c); err != nil || !slices.Contains(versions(), c.CNIVersion) {
		return newest
	}
	return c.CNIVersion
}

// versioned is the part of any input that says which version it is in.
type versioned struct {
	CNIVersion string `json:"cniVersion"`
}

// call makes a call, and returns the version that its answer is in.
func (p *Process) call(command string, verbs Verbs) (version string, err error) {
	v, ok := verbs.named(command)
	if !ok {
		return newest, environment("CNI_COMMAND", command, "is no verb of CNI %s", newest)
	}
	a := &Args{
		Container: p.Getenv("CNI_CONTAINERID"), Netns: p.Getenv("CNI_NETNS"),
		Interface: p.Getenv("CNI_IFNAME"), Extra: p.Getenv("CNI_ARGS"),
	}
	if err := a.validate(v); err != nil {
		return newest, err
	}
	if a.Stdin, err = io.ReadAll(p.Stdin); err != nil {
		return newest, types.NewError(types.ErrIOFailure, fmt.Sprintf("read network configuration: %v", err), "")
	}
	version, err = configVersion(a.Stdin, command, v.since)
	if err != nil {
		return version, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return version, v.call(ctx, a)
}

// configVersion reads the configuration's cniVersion, and says whether it has
// the verb. An answer to one that we don't speak is in our newest.
func configVersion(stdin []byte, command, since string) (string, error) {
	var c versioned
	if err := json.Unmarshal(stdin, &c); err != nil {
		return newest, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read network configuration: %v", err), "")
	}
	if !slices.Contains(versions(), c.CNIVersion) {
		return newest, types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion: %q: must be one of %s", c.CNIVersion, strings.Join(versions(), ", ")), "")
	}
	if c.CNIVersion < since { // as text: our versions are in order
		return c.CNIVersion, types.NewError(types.ErrIncompatibleCNIVersion,
			fmt.Sprintf("cniVersion: %q: has no %s, which came with %s", c.CNIVersion, command, since), "")
	}
	return c.CNIVersion, nil
}

// validate checks the environment for what the verb needs.
func (a *Args) validate(v verb) error {
	if v.netns && a.Netns == "" {
		return environment("CNI_NETNS", "", "is missing")
	}
	if !v.attachment {
		return nil
	}
	alphanumeric := func(r rune) bool { return r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) }
	odd := strings.ContainsFunc(a.Container, func(r rune) bool { return !alphanumeric(r) && !strings.ContainsRune("_.-", r) })
	switch {
	case a.Container == "":
		return environment("CNI_CONTAINERID", "", "is missing")
	case odd || !alphanumeric(rune(a.Container[0])):
		return environment("CNI_CONTAINERID", a.Container, "must begin with a letter or digit, and go on with these, '_', '.' and '-'")
	case a.Interface == "":
		return environment("CNI_IFNAME", "", "is missing")
	case len(a.Interface) > maxInterfaceName:
		return environment("CNI_IFNAME", a.Interface, "is longer than the %d bytes of an interface name", maxInterfaceName)
	case a.Interface == "." || a.Interface == ".." || strings.ContainsAny(a.Interface, "/:") || strings.ContainsFunc(a.Interface, unicode.IsSpace):
		return environment("CNI_IFNAME", a.Interface, "is no name that an interface can have")
	}
	return nil
}

// maxInterfaceName is the kernel's IFNAMSIZ less the terminating zero.
const maxInterfaceName = 15

func environment(name, value, problem string, args ...any) error {
	return types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("%s: %q: %s", name, value, fmt.Sprintf(problem, args...)), "")
}
