package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
)

// Health answers /healthz and /readyz.
type Health struct {
	Address netip.AddrPort
	Log     *slog.Logger

	mu       sync.Mutex
	networks map[string]networkHealth
}

// networkHealth is what is known of one network.
type networkHealth struct {
	Ready   bool      `json:"ready"`
	Error   string    `json:"error,omitempty"`
	Synced  time.Time `json:"synced,omitzero"`
	Expires time.Time `json:"leaseExpires,omitzero"`
}

// NewHealth returns the health of networks that haven't been synced yet.
func NewHealth(address netip.AddrPort, networks []Network, log *slog.Logger) *Health {
	h := &Health{Address: address, Log: orDiscard(log), networks: map[string]networkHealth{}}
	for _, n := range networks {
		h.networks[n.Name()] = networkHealth{Error: "not synced yet"}
	}
	return h
}

// report notes the outcome of a sync. A failure after a success leaves the
// network ready: its pods run on, and new ones get addresses, until the lease
// ends.
func (h *Health) report(network string, state *nodestate.State, err error) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.networks[network]
	n.Error = ""
	if err != nil {
		n.Error = err.Error()
	} else {
		n.Ready, n.Synced, n.Expires = true, time.Now().UTC(), state.Expires
	}
	h.networks[network] = n
}

// Run serves until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", h.Address.String())
	if err != nil {
		return fmt.Errorf("serve health: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.ready)
	const headerTimeout, shutdownTimeout = 5 * time.Second, time.Second
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			h.Log.Warn("stop serving health", "error", err)
		}
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health: %w", err)
	}
	return ctx.Err()
}

// ready answers 200 when every network can serve pods, else 503; the body says
// how each is.
func (h *Health) ready(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	body, err := json.MarshalIndent(h.networks, "", "  ")
	status := http.StatusOK
	for _, n := range h.networks {
		if !n.Ready || (!n.Expires.IsZero() && time.Now().After(n.Expires)) {
			status = http.StatusServiceUnavailable
		}
	}
	h.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		h.Log.Debug("answer readyz", "error", err)
	}
}
