package kubetest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strconv"
)

// Requests returns how many requests for resources the server has been sent
// since it started, by verb and resource: "GET nodes", "PATCH nodes/status". A
// watch counts once, as WATCH, from when it begins; in the moment that it ends it
// may count twice. The server's own requests are among them.
func (s *Server) Requests(ctx context.Context) (map[string]int, error) {
	metrics, err := s.get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	return requests(metrics)
}

// requests counts what metrics tell: the server counts a request when it is
// over, and a watch that is open only among the long-running ones.
func requests(metrics []byte) (map[string]int, error) {
	sample := regexp.MustCompile(`^apiserver_(?:request_total|longrunning_requests)\{(.*)\} (\S+)$`)
	label := regexp.MustCompile(`(\w+)="([^"]*)"`)
	counts := make(map[string]int)
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	for lines.Scan() {
		found := sample.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		labels := make(map[string]string)
		for _, l := range label.FindAllStringSubmatch(found[1], -1) {
			labels[l[1]] = l[2]
		}
		if labels["resource"] == "" {
			continue
		}
		n, err := strconv.ParseFloat(found[2], 64) // a large one has an exponent
		if err != nil {
			return nil, fmt.Errorf("count %q of requests: %w", lines.Text(), err)
		}
		counts[request(labels)] += int(n)
	}
	return counts, lines.Err()
}

// request names a request as roles do.
func request(labels map[string]string) string {
	name := labels["verb"] + " " + labels["resource"]
	if sub := labels["subresource"]; sub != "" {
		name += "/" + sub
	}
	return name
}
