package conformance

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
	"github.com/overlay-cni/overlay-cni/pkg/lab/labtest"
)

// gatewayTo opens a gateway on a node, and returns it with its URL and a client
// there.
func gatewayTo(t *testing.T, target string) (*gateway, string, *http.Client, *lab.Node) {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	node := labtest.Node(t, labtest.New(t, lab.Topology{}), "n1", "a")
	g := newGateway(to)
	t.Cleanup(g.close)
	at, err := g.open(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	there := &http.Transport{DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = node.Do(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}}
	t.Cleanup(there.CloseIdleConnections)
	return g, at, &http.Client{Transport: there}, node
}

// asked is what a request to a path brings back.
func asked(t *testing.T, client *http.Client, at, path string) (status int, text string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at+path, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer secret")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(raw)
}

// mirror is a server that tells what it was asked.
func mirror(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		body = []byte(err.Error())
	}
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL, r.Header.Get("Authorization"), body)
}

// TestGateway: requests from the node reach the server as they were, and are
// counted, also after the node has been switched off and on.
func TestGateway(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(mirror))
	t.Cleanup(server.Close)
	g, at, client, node := gatewayTo(t, server.URL+"/base")
	want := "POST /base/api/v1?watch=true Bearer secret body"
	for range 3 {
		if status, text := asked(t, client, at, "/api/v1?watch=true"); status != http.StatusTeapot || text != want {
			t.Errorf("%d %q, want %q", status, text, want)
		}
	}
	if n := g.requests.Load(); n != 3 {
		t.Errorf("%d requests were counted, want 3", n)
	}
	g.close()
	if err := node.Reset(); err != nil {
		t.Fatal(err)
	}
	at, err := g.open(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if _, text := asked(t, client, at, "/api/v1?watch=true"); text != want {
		t.Errorf("after a reboot: %q", text)
	}
	if n := g.requests.Load(); n != 4 {
		t.Errorf("%d requests were counted, want 4", n)
	}
}

// TestGatewayRefuses: who can't be passed on hears why.
func TestGatewayRefuses(t *testing.T) {
	t.Parallel()
	untrusted := httptest.NewUnstartedServer(http.HandlerFunc(mirror))
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	gone := httptest.NewServer(http.HandlerFunc(mirror))
	gone.Close()
	for _, c := range []struct{ target, says string }{
		{untrusted.URL, "certificate"},
		{gone.URL, "connection refused"},
	} {
		_, at, client, _ := gatewayTo(t, c.target)
		status, text := asked(t, client, at, "/api")
		if status != http.StatusBadGateway || !strings.Contains(text, c.says) || !strings.Contains(text, "POST /api") {
			t.Errorf("%s: %d %q, want %q", c.target, status, text, c.says)
		}
	}
}
