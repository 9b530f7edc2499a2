package kube_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab/kubetest"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
	"github.com/overlay-cni/overlay-cni/pkg/store/storetest"
)

// patience is how long a test waits for what must happen soon.
const patience = 30 * time.Second

// newServer starts an API server that has our resources and the daemon's role.
func newServer(t *testing.T) *kubetest.Server {
	t.Helper()
	s := kubetest.New(t)
	for _, file := range []string{"manifests/crds.yaml", "manifests/rbac.yaml"} {
		must(t, s.Apply(t.Context(), file))
	}
	return s
}

// open opens a store with a kubeconfig.
func open(t testing.TB, s *kubetest.Server, o kube.Options) *kube.Store {
	t.Helper()
	o.Dial = s.Dial
	opened, err := kube.Open(o)
	must(t, err)
	return opened
}

// client opens a store that is closed with the test.
func client(t testing.TB, s *kubetest.Server, o kube.Options) *kube.Store {
	t.Helper()
	opened := open(t, s, o)
	t.Cleanup(func() { must(t, opened.Close()) })
	return opened
}

// oneAtATime is a backend of tests that have a server to themselves, one after
// the other, each beginning with nothing.
func oneAtATime(s *kubetest.Server, config string) storetest.Backend {
	turn := make(chan struct{}, 1)
	return func(t *testing.T) func() store.Store {
		t.Helper()
		turn <- struct{}{}
		t.Cleanup(func() { <-turn })
		empty(t, client(t, s, kube.Options{Kubeconfig: config}))
		return func() store.Store { return open(t, s, kube.Options{Kubeconfig: config}) }
	}
}

// empty removes all that is there.
func empty(t testing.TB, s store.Store) {
	t.Helper()
	entries, _, err := s.List(t.Context(), "")
	must(t, err)
	for _, e := range entries {
		must(t, s.Delete(t.Context(), e.Key, e.Revision))
	}
}

// account returns the kubeconfig of the daemon's service account, and the file
// that has its token.
func account(t testing.TB, s *kubetest.Server) (config, tokenFile string) {
	t.Helper()
	token, err := s.Token(t.Context(), "overlay-cni", "overlayd", time.Hour)
	must(t, err)
	dir := t.TempDir()
	tokenFile, config = filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	must(t, os.WriteFile(tokenFile, []byte(token), 0o600))
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
		"clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority-data":%q}}],"users":[{"name":"u","user":{"tokenFile":"token"}}]}`,
		s.URL(), base64.StdEncoding.EncodeToString(s.CA()))
	must(t, os.WriteFile(config, []byte(text), 0o600))
	return config, tokenFile
}

// TestStore: the suite, as the daemon's own account.
func TestStore(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	config, _ := account(t, s)
	storetest.Run(t, oneAtATime(s, config))
}

// TestFaults: the API server or its etcd, or the way to them, isn't what it should
// be.
func TestFaults(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	config, _ := account(t, s)
	member := s.Etcd().Members[0]
	compact := func() error { return s.Etcd().Compact(t.Context()) }
	storetest.RunFaults(t, oneAtATime(s, config), []storetest.Fault{
		{Name: "nothing", Break: func() error { return nil }},
		{Name: "the API server is killed", Break: s.Kill, Mend: s.Start},
		{Name: "the API server hangs", Break: s.Pause, Mend: s.Resume},
		{Name: "clients are cut off", Break: s.CutClients, Mend: s.MendClients},
		{Name: "the etcd is killed", Break: member.Kill, Mend: member.Start},
		{Name: "the etcd hangs", Break: member.Pause, Mend: member.Resume},
		{Name: "compaction", Break: compact},
		{Name: "compaction while clients are cut off", Break: func() error {
			if err := s.CutClients(); err != nil {
				return err
			}
			return compact()
		}, Mend: s.MendClients},
	})
}
