package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// peerStatus is whether the nodes use an external peer.
type peerStatus struct {
	Used    bool   `json:"used"`
	Problem string `json:"problem,omitempty"`
}

// peerResult is an external peer with its status.
type peerResult struct {
	peer   lease.ExternalPeer
	status peerStatus
}

func (r *peerResult) object() object {
	spec := struct {
		lease.ExternalPeer
		Name string `json:"name,omitempty"` // it is the object's
	}{ExternalPeer: r.peer}
	return newObject(kindExternal, r.peer.Name, spec, r.status)
}

// PeerList writes the external peers, those that nobody uses among them.
func (c *Cluster) PeerList(ctx context.Context) error {
	all, err := c.peers(ctx)
	if err != nil {
		return err
	}
	objects := make([]object, 0, len(all))
	rows := [][]string{{"PEER", "NETWORK", "VTEP", "MAC", "CIDRS", "PROBLEM"}}
	for i := range all {
		r := &all[i]
		if c.Network != "" && r.peer.Network != c.Network {
			continue
		}
		objects = append(objects, r.object())
		rows = append(rows, []string{
			r.peer.Name, r.peer.Network, list(r.peer.VTEP.Underlay), r.peer.VTEP.MAC.String(), list(r.peer.CIDRs), r.status.Problem,
		})
	}
	if c.Format == JSON {
		return writeJSON(c.Out, objects)
	}
	return table(c.Out, rows)
}

// PeerShow writes one external peer.
func (c *Cluster) PeerShow(ctx context.Context, name string) error {
	all, err := c.peers(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(r peerResult) bool { return r.peer.Name == name })
	if at < 0 {
		return fmt.Errorf("external peer %s: %w", name, store.ErrNotFound)
	}
	r := &all[at]
	if c.Format == JSON {
		return writeJSON(c.Out, r.object())
	}
	rows := [][]string{
		{"external peer", name}, {"network", r.peer.Network}, {"VTEP", list(r.peer.VTEP.Underlay)},
		{"MAC", r.peer.VTEP.MAC.String()}, {"CIDRs", list(r.peer.CIDRs)},
	}
	if r.status.Problem != "" {
		rows = append(rows, []string{"problem", r.status.Problem})
	}
	return table(c.Out, rows)
}

// peers reads all, by name, also what can't be read.
func (c *Cluster) peers(ctx context.Context) ([]peerResult, error) {
	stored, err := c.Registry.Peers(ctx, "")
	if err != nil && !errors.Is(err, store.ErrCorrupt) {
		return nil, err
	}
	used, problems, err := c.judged(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]peerResult, 0, len(stored))
	for _, p := range stored {
		r := peerResult{p, peerStatus{Used: used[p.Name], Problem: problems[p.Name]}}
		if !r.status.Used && r.status.Problem == "" {
			r.status.Problem = fmt.Sprintf("network %s isn't registered", p.Network)
		}
		delete(problems, p.Name)
		all = append(all, r)
	}
	for name, problem := range problems {
		all = append(all, peerResult{lease.ExternalPeer{Name: name}, peerStatus{Problem: problem}})
	}
	slices.SortFunc(all, func(a, b peerResult) int { return strings.Compare(a.peer.Name, b.peer.Name) })
	return all, nil
}

// judged says which external peers the nodes of all networks use, and why they
// don't use the others.
func (c *Cluster) judged(ctx context.Context) (used map[string]bool, problems map[string]string, err error) {
	networks, err := c.Registry.Networks(ctx)
	if err != nil {
		return nil, nil, err
	}
	used, problems = map[string]bool{}, map[string]string{}
	for i := range networks {
		v, err := c.view(ctx, networks[i].Name)
		if err != nil {
			return nil, nil, err
		}
		for j := range v.usable {
			used[v.usable[j].Name] = true
		}
		for _, r := range v.refused {
			problems[r.Peer] = r.Err.Error()
		}
	}
	_, lost, err := c.Registry.UsablePeers(ctx, "", nil) // those that are of no network
	for _, r := range lost {
		problems[r.Peer] = r.Err.Error()
	}
	return used, problems, err
}

// PeerApply creates or replaces the external peers of a file.
func (c *Cluster) PeerApply(ctx context.Context, in io.Reader) error {
	return c.apply(in, kindExternal, func(d *document) error {
		p, warnings, err := config.ParsePeer(d.name, d.spec)
		d.warnings = warnings
		if err != nil {
			return d.within(err)
		}
		if err := c.Registry.ApplyPeer(ctx, &p); err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "external peer %s is as it should be\n", p.Name)
		return nil
	})
}

// PeerRemove removes an external peer.
func (c *Cluster) PeerRemove(ctx context.Context, name string) error {
	if err := c.Registry.RemovePeer(ctx, name); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "external peer %s is removed\n", name)
	return nil
}
