package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// client makes requests of an API server. It has client-go's transport, which
// knows all ways to authenticate, and none of its rate limits and retries: a
// request that may have been carried out isn't tried again, because of a write
// nobody would know then whose it was.
type client struct {
	http    *http.Client
	base    *url.URL
	timeout time.Duration
}

func newClient(config *rest.Config, timeout time.Duration) (*client, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("%w: server %q: %w", ErrOptions, config.Host, err)
	}
	h, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("%w: server %s: %w", ErrOptions, base.Host, err)
	}
	return &client{http: h, base: base, timeout: timeout}, nil
}

// request is one of the API.
type request struct {
	method   string
	resource schema.GroupVersionResource
	// name of the object, and which part of it; "": the collection, all.
	name, subresource string
	query             url.Values
	// body, if any, is sent as JSON of the given type.
	body        any
	contentType string
}

// path of the request below the API server's URL.
func (r *request) path() []string {
	path := []string{"apis", r.resource.Group, r.resource.Version, r.resource.Resource}
	if r.resource.Group == "" {
		path = []string{"api", r.resource.Version, r.resource.Resource}
	}
	for _, part := range []string{r.name, r.subresource} {
		if part != "" {
			path = append(path, part)
		}
	}
	return path
}

// Types of bodies.
const (
	plain      = "application/json"
	jsonPatch  = "application/json-patch+json"
	mergePatch = "application/merge-patch+json"
	// strategicPatch merges lists such as a Node's conditions.
	strategicPatch = "application/strategic-merge-patch+json"
)

// do makes a request within its time, and decodes the answer.
func (c *client) do(ctx context.Context, r *request, into any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	response, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	err = json.NewDecoder(response.Body).Decode(into)
	if err != nil {
		err = fmt.Errorf("read the answer of %s: %w", c.base.Host, err)
	}
	return errors.Join(err, response.Body.Close())
}

// send makes a request, again where the API server didn't look at it: it was
// busy, or our token has been renewed. The caller closes the answer's body.
func (c *client) send(ctx context.Context, r *request) (*http.Response, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	unauthorized := false
	for {
		response, err := c.attempt(ctx, r, body)
		switch {
		case err == nil:
			return response, nil
		case apierrors.IsUnauthorized(err) && !unauthorized:
			unauthorized = true // a token's file is read anew after that
		case apierrors.IsTooManyRequests(err):
			if wait(ctx, delay(err)) != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// delay is how long the API server wants us to wait, and a bit more, so that not
// all whom it said so come back at once.
func delay(err error) time.Duration {
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return time.Duration(max(seconds, 1))*time.Second + rand.N(time.Second)
}

// attempt makes a request once.
func (c *client) attempt(ctx context.Context, r *request, body []byte) (*http.Response, error) {
	address := c.base.JoinPath(r.path()...)
	address.RawQuery = r.query.Encode()
	request, err := http.NewRequestWithContext(ctx, r.method, address.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Accept", plain)
	if body != nil {
		request.Header.Set("Content-Type", r.contentType)
	}
	response, err := c.http.Do(request)
	if err != nil {
		var of *url.Error
		if errors.As(err, &of) { // which repeats the whole URL
			err = of.Err
		}
		return nil, fmt.Errorf("API server %s: %w", c.base.Host, err)
	}
	if response.StatusCode >= http.StatusBadRequest {
		err := refusal(r, response)
		return nil, errors.Join(err, response.Body.Close())
	}
	return response, nil
}

// refusal reads why the API server didn't do what it was asked, or a proxy on
// the way to it.
func refusal(r *request, response *http.Response) error {
	const enough = 64 << 10
	text, err := io.ReadAll(io.LimitReader(response.Body, enough))
	if err != nil {
		return fmt.Errorf("read why the API server says %s: %w", response.Status, err)
	}
	var s metav1.Status
	if json.Unmarshal(text, &s) == nil && s.Kind == "Status" {
		return &apierrors.StatusError{ErrStatus: s}
	}
	seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	return apierrors.NewGenericServerResponse(response.StatusCode, r.method, r.resource.GroupResource(), r.name, string(bytes.TrimSpace(text)), seconds, true)
}

// wait waits for a time.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
