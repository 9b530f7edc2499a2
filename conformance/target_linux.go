package conformance

// What is tested, read once.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Target is what is tested: the plugins of a network configuration.
type Target struct {
	// Conflist is the network configuration, as in /etc/cni/net.d. Each of its
	// plugins is held to the clauses, and the first one to those of an
	// interface plugin, or, when its ipam.type is its own type, of an IPAM
	// plugin.
	//
	// Its texts may name what differs from node to node: ${NODE}, the node's
	// name; ${INDEX}, its number from one on; ${ADDRESS} and ${ADDRESS6}, its
	// addresses; ${SHARED}, a folder that all nodes of a network share; ${API},
	// where API is reached.
	Conflist []byte
	// Bin are the folders with the plugins.
	Bin []string
	// RuntimeConfig are capability arguments. A plugin is given those that its
	// configuration declares.
	RuntimeConfig map[string]json.RawMessage
	// Args is CNI_ARGS.
	Args string
	// Daemon is a command line for /bin/sh that runs on each node as long as the
	// node does, if there is one. It has the conflist's variables in its
	// environment, and Bin at the end of its PATH.
	Daemon string
	// Joins says that the network joins the pods of several nodes, which then is
	// held to the network section.
	Joins bool
	// API is the URL of an API server that plugins call, if they do. They reach
	// it through a proxy that counts, see Conflist.
	API string
}

// A kind of plugin is what it is asked to do.
type kind int

const (
	interfacePlugin kind = iota
	chainedPlugin
	ipamPlugin
)

// A plugin is one of a target.
type plugin struct {
	name         string
	path         string
	kind         kind
	conf         map[string]json.RawMessage // as in the conflist, without what is the runtime's
	capabilities map[string]bool
	ipam         string // what it delegates to, if any
}

// A plan is a target as it is executed.
type plan struct {
	network  string
	plugins  []plugin
	bin      []string
	capable  map[string]json.RawMessage
	args     string
	daemon   string
	joins    bool
	noCheck  bool // the conflist's disableCheck
	noGC     bool // its disableGC
	api      *url.URL
	limit    time.Duration // for each command; none when zero
	declared []string      // versions, in the conflist
	versions []string      // that all plugins support, oldest first
	samples  map[string]*sample
	capacity *capacity

	convergence time.Duration
}

// read makes a plan of a target; the versions are still to be asked for.
func read(t Target) (*plan, error) {
	var list struct {
		Name     string                       `json:"name"`
		Version  string                       `json:"cniVersion"`
		Versions []string                     `json:"cniVersions"`
		NoCheck  bool                         `json:"disableCheck"`
		NoGC     bool                         `json:"disableGC"`
		Plugins  []map[string]json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(t.Conflist, &list); err != nil {
		return nil, fmt.Errorf("read conflist: %w", err)
	}
	if list.Name == "" || len(list.Plugins) == 0 {
		return nil, errors.New("read conflist: it needs name and plugins")
	}
	if err := checkVariables(t.Conflist, t.API != ""); err != nil {
		return nil, fmt.Errorf("read conflist: %w", err)
	}
	p := &plan{
		network: list.Name, capable: t.RuntimeConfig, args: t.Args, declared: list.Versions,
		daemon: t.Daemon, joins: t.Joins, noCheck: list.NoCheck, noGC: list.NoGC, convergence: defaultConvergence,
	}
	if err := p.readAPI(t.API); err != nil {
		return nil, err
	}
	if !slices.Contains(p.declared, list.Version) {
		p.declared = append(p.declared, list.Version)
	}
	p.samples, p.capacity = map[string]*sample{}, &capacity{}
	for _, v := range knownVersions() {
		p.samples[v] = &sample{}
	}
	for _, dir := range t.Bin {
		absolute, err := filepath.Abs(dir)
		if err != nil {
			return nil, fmt.Errorf("folder of plugins %q: %w", dir, err)
		}
		p.bin = append(p.bin, absolute)
	}
	for i, conf := range list.Plugins {
		one, err := p.read(i, conf)
		if err != nil {
			return nil, fmt.Errorf("read conflist: plugins[%d]: %w", i, err)
		}
		p.plugins = append(p.plugins, one)
	}
	return p, nil
}

// readAPI reads the URL of the API server.
func (p *plan) readAPI(text string) (err error) {
	if text == "" {
		return nil
	}
	p.api, err = url.Parse(text)
	if err != nil {
		return fmt.Errorf("URL of the API server: %w", err)
	}
	if p.api.Scheme != "http" && p.api.Scheme != "https" || p.api.Host == "" {
		return fmt.Errorf("URL of the API server %q: it needs http or https, and a host", text)
	}
	return nil
}

// read reads the configuration of one plugin.
func (p *plan) read(place int, conf map[string]json.RawMessage) (plugin, error) {
	var known struct {
		Type         string          `json:"type"`
		Capabilities map[string]bool `json:"capabilities"`
		IPAM         struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	raw, err := json.Marshal(conf)
	if err != nil {
		return plugin{}, err
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return plugin{}, err
	}
	one := plugin{name: known.Type, conf: conf, capabilities: known.Capabilities, ipam: known.IPAM.Type}
	switch {
	case place > 0:
		one.kind = chainedPlugin
	case known.IPAM.Type == known.Type:
		one.kind, one.ipam = ipamPlugin, ""
	}
	for name := range conf {
		if name == "capabilities" || name == "runtimeConfig" || strings.HasPrefix(name, "cni.dev/") {
			delete(conf, name)
		}
	}
	one.path, err = p.find(known.Type)
	return one, err
}

// find looks for a plugin as the specification says.
func (p *plan) find(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, filepath.Separator) {
		return "", fmt.Errorf("type %q is no plugin's name", name)
	}
	for _, dir := range p.bin {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("type %q is in none of the folders %v", name, p.bin)
}

// newest is the newest version that all plugins support.
func (p *plan) newest() string { return p.versions[len(p.versions)-1] }

// delegates returns the places of the plugins that have an IPAM plugin.
func (p *plan) delegates() []int {
	return p.places(func(one *plugin) bool { return one.ipam != "" })
}

// chained returns the places of the chained plugins.
func (p *plan) chained() []int {
	return p.places(func(one *plugin) bool { return one.kind == chainedPlugin })
}

func (p *plan) places(is func(*plugin) bool) []int {
	var found []int
	for i := range p.plugins {
		if is(&p.plugins[i]) {
			found = append(found, i)
		}
	}
	return found
}

// needsInterface, needsIPAM, needsDelegate, needsChain, needsNodes and
// needsDaemon say what a clause is about when the target has none of it.
func needsInterface(p *plan) string {
	if p.plugins[0].kind != interfacePlugin {
		return p.plugins[0].name + " is an IPAM plugin, which makes no interface"
	}
	return ""
}

func needsIPAM(p *plan) string {
	if p.plugins[0].kind != ipamPlugin {
		return p.plugins[0].name + " is no IPAM plugin (its ipam.type isn't its own type)"
	}
	return ""
}

func needsDelegate(p *plan) string {
	if len(p.delegates()) == 0 {
		return "no plugin of the conflist has an ipam.type to delegate to"
	}
	return ""
}

func needsChain(p *plan) string {
	if len(p.chained()) == 0 {
		return "the conflist has no chained plugin"
	}
	return ""
}

func needsNodes(p *plan) string {
	if !p.joins {
		return "the target isn't said to join the pods of several nodes"
	}
	return needsInterface(p)
}

func needsDaemon(p *plan) string {
	if p.daemon == "" {
		return "the target has no daemon"
	}
	return needsNodes(p)
}

func needsAPI(p *plan) string {
	if p.api == nil {
		return "no URL of an API server is given"
	}
	return ""
}

// disabled says why a clause is about a command that the conflist forbids.
func (p *plan) disabled(c *Clause) string {
	switch {
	case p.noCheck && c.Of == "Section 2: CHECK":
		return "the conflist has disableCheck"
	case p.noGC && c.Of == "Section 2: GC":
		return "the conflist has disableGC"
	}
	return ""
}
