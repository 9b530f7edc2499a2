package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
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
	unlisted string // why it isn't known which networks there are
	changed  chan struct{}
}

// networkHealth is what is known of one network.
type networkHealth struct {
	Ready   bool      `json:"ready"`
	Error   string    `json:"error,omitempty"`
	Synced  time.Time `json:"synced,omitzero"`
	Expires time.Time `json:"leaseExpires,omitzero"`
}

// NewHealth returns the health of a node whose networks aren't known yet.
func NewHealth(address netip.AddrPort, log *slog.Logger) *Health {
	return &Health{Address: address, Log: orDiscard(log), networks: map[string]networkHealth{}, unlisted: "networks aren't known yet", changed: make(chan struct{}, 1)}
}

// listed notes whether it is known which networks there are. Once it is, a
// failure to ask again changes nothing.
func (h *Health) listed(err error) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	defer rouse(h.changed)
	switch {
	case err == nil:
		h.unlisted = ""
	case h.unlisted != "":
		h.unlisted = err.Error()
	}
}

// expect notes a network that hasn't been synced yet.
func (h *Health) expect(network string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.networks[network] = networkHealth{Error: "not synced yet"}
	rouse(h.changed)
}

// forget drops a network that is no longer served.
func (h *Health) forget(network string) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.networks, network)
	rouse(h.changed)
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
	rouse(h.changed)
}

// Ready says whether every network can serve pods, or why not.
func (h *Health) Ready() (ready bool, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.unlisted != "":
		return false, h.unlisted
	case len(h.networks) == 0:
		return false, "there is no network to serve"
	}
	for _, name := range slices.Sorted(maps.Keys(h.networks)) {
		n := h.networks[name]
		if n.Ready && (n.Expires.IsZero() || time.Now().Before(n.Expires)) {
			continue
		}
		if n.Error == "" {
			n.Error = "lease expired at " + n.Expires.Format(time.RFC3339)
		}
		return false, "network " + name + ": " + n.Error
	}
	return true, ""
}

// announce tells whether the node is ready, until ctx ends: at first, when that
// changes, and again after a failure. What isn't ready at first isn't told before
// it had its time.
func announce(ctx context.Context, h *Health, tell func(ctx context.Context, ready bool, reason string) error, log *slog.Logger) error {
	var told *bool
	patience, retry := time.Now().Add(firstAnnouncement), firstRetry
	for {
		pause := jitter(Resync) // leases expire without a word
		if ready, reason := h.Ready(); (told == nil || *told != ready) && (ready || time.Now().After(patience)) {
			if err := tell(ctx, ready, reason); err == nil {
				told, retry = &ready, firstRetry
			} else if ctx.Err() == nil {
				log.Warn("readiness isn't announced", "ready", ready, "error", err, "retry", retry)
				pause, retry = jitter(retry), min(2*retry, lastRetry)
			}
		}
		if err := sleep(ctx, pause, h.changed); err != nil {
			return err
		}
	}
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
	ready, reason := h.Ready()
	h.mu.Lock()
	known := len(h.networks) > 0
	body, err := json.MarshalIndent(h.networks, "", "  ")
	h.mu.Unlock()
	switch {
	case !known:
		http.Error(w, reason, http.StatusServiceUnavailable)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if _, err := w.Write(append(body, '\n')); err != nil {
		h.Log.Debug("answer readyz", "error", err)
	}
}
