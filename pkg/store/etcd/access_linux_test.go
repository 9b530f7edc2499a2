package etcd_test

// Who may use an etcd.

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/overlay-cni/overlay-cni/pkg/lab/etcdtest"
	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/etcd"
)

// use creates and reads a key.
func use(t *testing.T, o etcd.Options) error {
	t.Helper()
	s, err := etcd.Open(o)
	if err != nil {
		return err
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := s.Create(t.Context(), "key", []byte("value")); err != nil && !errors.Is(err, store.ErrExists) {
		return err
	}
	_, err = s.Get(t.Context(), "key")
	return err
}

// TestTLS: both sides have to prove who they are.
func TestTLS(t *testing.T) {
	t.Parallel()
	c := etcdtest.NewSecure(t)
	files := c.Certificates
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		tls  etcd.TLS
		says string // "": it works
	}{
		{"right", etcd.TLS{CA: files.CA, Cert: files.Cert, Key: files.Key}, ""},
		{"no certificate of the client", etcd.TLS{CA: files.CA}, "answered within"},
		{"another authority", etcd.TLS{Cert: files.Cert, Key: files.Key}, "answered within"},
		{"an authority's file that isn't there", etcd.TLS{CA: "/no/such"}, "/no/such"},
		{"an authority's file without any", etcd.TLS{CA: empty}, "no certificate"},
		{"no key", etcd.TLS{CA: files.CA, Cert: files.Cert}, "one is missing"},
		{"a key that is none", etcd.TLS{CA: files.CA, Cert: files.Cert, Key: empty}, "client certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := use(t, etcd.Options{Endpoints: c.Endpoints(), Dial: c.Dial, TLS: test.tls, RequestTimeout: 2 * time.Second})
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}

// TestUsers: a user with the right to one prefix.
func TestUsers(t *testing.T) {
	t.Parallel()
	c := etcdtest.New(t, 1)
	for _, command := range []string{
		"user add root:r", "user add overlay:secret", "role add overlay",
		"role grant-permission overlay --prefix=true readwrite /overlay-cni/", "user grant-role overlay overlay", "auth enable",
	} {
		if out, err := c.Members[0].Ctl(t.Context(), strings.Fields(command)...); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	for _, test := range []struct {
		name, user, password, prefix string
		want                         error // nil: it works
	}{
		{"right", "overlay", "secret", "", nil},
		{"wrong password", "overlay", "guess", "", rpctypes.ErrAuthFailed},
		{"nobody", "", "", "", rpctypes.ErrUserEmpty},
		{"another prefix", "overlay", "secret", "/other/", rpctypes.ErrPermissionDenied},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := etcd.Options{
				Endpoints: c.Endpoints(), Dial: c.Dial, Username: test.user, Password: test.password, Prefix: test.prefix, RequestTimeout: 5 * time.Second,
			}
			if err := use(t, o); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if test.want != nil && test.prefix != "" {
				watchIsRefused(t, o)
			}
		})
	}
}

// watchIsRefused: a watch that will never be allowed says so, and isn't tried
// again and again.
func watchIsRefused(t *testing.T, o etcd.Options) {
	t.Helper()
	s, err := etcd.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.Watch(ctx, "", 0, func(store.Event) error { return nil }); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("watch: %v, want %v", err, rpctypes.ErrPermissionDenied)
	}
}

// TestOptions: what can't be used is named.
func TestOptions(t *testing.T) {
	t.Parallel()
	good := []string{"http://e:1"}
	for _, test := range []struct {
		says string
		o    etcd.Options
	}{
		{"no endpoints", etcd.Options{}},
		{`"e:1"`, etcd.Options{Endpoints: []string{"e:1"}}},
		{`"http://e:1/p"`, etcd.Options{Endpoints: []string{"http://e:1/p"}}},
		{`"no-slash"`, etcd.Options{Endpoints: good, Prefix: "no-slash"}},
		{"without a user", etcd.Options{Endpoints: good, Password: "p"}},
		{"https", etcd.Options{Endpoints: good, TLS: etcd.TLS{CA: "/ca"}}},
	} {
		if s, err := etcd.Open(test.o); !errors.Is(err, etcd.ErrOptions) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v, %v, want %s", test.o, s, err, test.says)
		}
	}
}

// TestNobodyThere: a request ends in its time, and the error says whom it asked.
func TestNobodyThere(t *testing.T) {
	t.Parallel()
	nobody := func(context.Context, string) (net.Conn, error) { return nil, errors.New("no route to host") }
	err := use(t, etcd.Options{Endpoints: []string{"http://192.0.2.1:2379"}, Dial: nobody, RequestTimeout: 100 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "http://192.0.2.1:2379") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want the endpoint and %v", err, context.DeadlineExceeded)
	}
}
