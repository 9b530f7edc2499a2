package conformance

// Requests to an API server, counted.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/lab"
)

// A gateway is where plugins of a node reach an API server, which they couldn't
// from there. It counts their requests.
type gateway struct {
	target   *url.URL
	outside  *http.Transport
	requests atomic.Int64
	server   *http.Server // nil while the node is off
}

func newGateway(target *url.URL) *gateway {
	return &gateway{target: target, outside: &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}}
}

// open listens on the node, and returns the URL there.
func (g *gateway) open(ctx context.Context, node *lab.Node) (string, error) {
	var listener net.Listener
	err := node.Do(func() (err error) {
		var config net.ListenConfig
		listener, err = config.Listen(ctx, "tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("listen for API requests: %w", err)
	}
	// What goes wrong is told to whoever asked.
	silent := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(g.target) },
		Transport:     g.outside,
		FlushInterval: -1, // watches
		ErrorLog:      silent,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, fmt.Sprintf("%s %s can't be passed on to %s: %v", r.Method, r.URL.Path, g.target.Host, err), http.StatusBadGateway)
		},
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: silent, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		proxy.ServeHTTP(w, r)
	})}
	g.server = server
	go func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			_ = listener.Close() // plugins see it refused
		}
	}()
	return "http://" + listener.Addr().String(), nil
}

// close ends all requests.
func (g *gateway) close() {
	if g.server != nil {
		_ = g.server.Close()
		g.server = nil
	}
	g.outside.CloseIdleConnections()
}
