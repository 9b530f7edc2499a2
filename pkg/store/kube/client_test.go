package kube_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/kube"
)

// What an API server or a proxy may answer, and seldom does: told by a script.

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// answer is one of a script.
type answer struct {
	status int
	body   string
	header http.Header
}

// script answers requests in order, the last answer again and again, and
// remembers them.
type script struct {
	mu      sync.Mutex
	answers []answer
	asked   []string // method, path and query
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	a := s.answers[min(len(s.asked), len(s.answers)-1)]
	s.asked = append(s.asked, r.Method+" "+r.URL.RequestURI())
	s.mu.Unlock()
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	fmt.Fprint(w, a.body)
}

func (s *script) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// scripted opens a store on a script.
func scripted(t *testing.T, o kube.Options, answers ...answer) (*kube.Store, *script) {
	t.Helper()
	s := &script{answers: answers}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return reached(t, o, server.URL), s
}

// reached opens a store on a server without TLS.
func reached(t *testing.T, o kube.Options, url string) *kube.Store {
	t.Helper()
	o.Kubeconfig = writeKubeconfig(t, url)
	opened, err := kube.Open(o)
	must(t, err)
	t.Cleanup(func() { must(t, opened.Close()) })
	return opened
}

func writeKubeconfig(t *testing.T, url string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Config","current-context":"c",
		"clusters":[{"name":"c","cluster":{"server":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],"users":[{"name":"u","user":{}}]}`, url), 0o600))
	return file
}

// refused is a Status.
func refused(code int, reason string) answer {
	return answer{status: code, body: fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","code":%d,"reason":%q,"message":"because"}`, code, reason)}
}

// listed is a page with some records.
func listed(version, token string, keys ...string) answer {
	items := make([]string, len(keys))
	for i, key := range keys {
		items[i] = record(key)
	}
	return answer{status: 200, body: fmt.Sprintf(`{"kind":"RecordList","metadata":{"resourceVersion":%q,"continue":%q},"items":[%s]}`, version, token, strings.Join(items, ","))}
}

// record is one of a key, at revision 5.
func record(key string) string {
	return fmt.Sprintf(`{"metadata":{"name":"%x","resourceVersion":"5"},"spec":{"key":%q}}`, sha256.Sum256([]byte(key)), key)
}

// TestBusyServer: it didn't look at the request, which is so safe to make again.
func TestBusyServer(t *testing.T) {
	t.Parallel()
	busy := answer{status: 429, body: "Too many requests, please try again later.", header: http.Header{"Retry-After": {"1"}}}
	s, script := scripted(t, kube.Options{}, busy, busy, answer{status: 201, body: record("a")})
	began := time.Now()
	if r, err := s.Create(t.Context(), "a", nil); err != nil || r != 5 || len(script.requests()) != 3 {
		t.Errorf("%d, %v after %v", r, err, script.requests())
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it was asked again after %s", took)
	}
	s, _ = scripted(t, kube.Options{RequestTimeout: 100 * time.Millisecond}, busy, busy, answer{status: 200, body: event("ADDED", record("a/x"))})
	enough := errors.New("enough")
	if err := s.Watch(t.Context(), "a/", 3, func(store.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("watch: %v, want %v", err, enough)
	}
	s, script = scripted(t, kube.Options{RequestTimeout: 100 * time.Millisecond}, busy)
	if _, err := s.Create(t.Context(), "a", nil); err == nil || !strings.Contains(err.Error(), "try again later") || len(script.requests()) != 1 {
		t.Errorf("%v after %v", err, script.requests())
	}
}

// TestUnknownOutcome: of a write that may have happened nobody says that it
// didn't, and it isn't tried again.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	writes := map[string]func(*kube.Store) error{
		"create": func(s *kube.Store) error { _, err := s.Create(t.Context(), "a", nil); return err },
		"update": func(s *kube.Store) error { _, err := s.Update(t.Context(), "a", nil, 5); return err },
		"delete": func(s *kube.Store) error { return s.Delete(t.Context(), "a", 5) },
	}
	later := http.Header{"Retry-After": {"1"}}
	for name, write := range writes {
		for _, a := range []answer{
			refused(500, "InternalError"), {status: 503, body: "no backend", header: later}, refused(504, "Timeout"), {status: 502, body: "<html>"}, {status: 200, body: `{"metadata":`},
		} {
			s, script := scripted(t, kube.Options{}, a)
			err := write(s)
			known := errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) || errors.Is(err, kube.ErrInvalid)
			if err == nil || known || len(script.requests()) != 1 {
				t.Errorf("%s, %d: %v after %v", name, a.status, err, script.requests())
			}
		}
	}
}

// TestUnauthorized: a token's file is read anew after the first time.
func TestUnauthorized(t *testing.T) {
	t.Parallel()
	s, script := scripted(t, kube.Options{}, refused(401, "Unauthorized"), answer{status: 200, body: record("a")})
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Errorf("%v after %v", err, script.requests())
	}
	s, script = scripted(t, kube.Options{}, refused(401, "Unauthorized"))
	if _, err := s.Get(t.Context(), "a"); err == nil || len(script.requests()) != 2 {
		t.Errorf("%v after %v", err, script.requests())
	}
}

// TestNotFound: what isn't said of the object itself isn't that it is gone.
func TestNotFound(t *testing.T) {
	t.Parallel()
	object := strings.Replace(refused(404, "NotFound").body, `"message"`, `"details":{"name":"pods","kind":"networks"},"message"`, 1)
	for _, test := range []struct {
		name, body string
		gone       bool
	}{
		{"an object", object, true},
		{"no such resource", "404 page not found\n", false},
		{"a proxy", "<html>nothing here</html>", false},
		{"another object", strings.Replace(object, "pods", "other", 1), false},
	} {
		s, _ := scripted(t, kube.Options{}, answer{status: 404, body: test.body})
		_, getErr := s.Get(t.Context(), "networks/pods")
		_, updateErr := s.Update(t.Context(), "networks/pods", []byte(`{"name":"pods"}`), 5)
		for _, err := range []error{getErr, updateErr, s.Delete(t.Context(), "networks/pods", 5)} {
			if errors.Is(err, store.ErrNotFound) != test.gone || err == nil || strings.Contains(err.Error(), "crds.yaml") == test.gone {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
}

// TestNobodyAnswers: a request ends in its time, and the error says whom it
// asked; a caller's own end comes first.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(over) })
	s := reached(t, kube.Options{RequestTimeout: 50 * time.Millisecond}, server.URL)
	_, err := s.Create(t.Context(), "a", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), strings.TrimPrefix(server.URL, "http://")) {
		t.Errorf("%v, want the server and %v", err, context.DeadlineExceeded)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Create(ctx, "a", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.Watch(ctx, "a/", 5, ignore); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("watch: %v, want %v", err, context.DeadlineExceeded)
	}
}

func ignore(store.Event) error { return nil }

// TestPages: a listing goes on page by page, and begins anew when the API server
// has forgotten its moment; but not for ever.
func TestPages(t *testing.T) {
	t.Parallel()
	s, script := scripted(t, kube.Options{}, listed("8", "one", "a/y"), refused(410, "Expired"), listed("9", "two", "a/z", "b"), listed("9", "", "a/x"))
	entries, at, err := s.List(t.Context(), "a/")
	if err != nil || at != 9 || len(entries) != 2 || entries[0].Key != "a/x" || entries[1].Key != "a/z" {
		t.Errorf("%v at %d, %v", entries, at, err)
	}
	const path = "GET /apis/overlay-cni.io/v1alpha1/records?"
	want := []string{path + "limit=500", path + "continue=one&limit=500", path + "limit=500", path + "continue=two&limit=500"}
	if got := script.requests(); !slices.Equal(got, want) {
		t.Errorf("it asked %v, want %v", got, want)
	}
	s, script = scripted(t, kube.Options{}, refused(410, "Expired"))
	if _, _, err := s.List(t.Context(), "a/"); err == nil || len(script.requests()) != 5 {
		t.Errorf("%v after %v", err, script.requests())
	}
}

// TestOneMoment: a listing of several kinds is of all as they were when it listed
// the first.
func TestOneMoment(t *testing.T) {
	t.Parallel()
	s, script := scripted(t, kube.Options{}, listed("8", ""), listed("8", ""), listed("8", ""), listed("8", "", "b", "a"))
	entries, at, err := s.List(t.Context(), "")
	if err != nil || at != 8 || len(entries) != 2 || entries[0].Key != "a" {
		t.Errorf("%v at %d, %v", entries, at, err)
	}
	for i, request := range script.requests() {
		if strings.Contains(request, "resourceVersion=8&resourceVersionMatch=Exact") != (i > 0) {
			t.Errorf("request %d is %s", i, request)
		}
	}
}

// event is one of a watch.
func event(kind, object string) string {
	return fmt.Sprintf(`{"type":%q,"object":%s}`+"\n", kind, object)
}

// TestWatchGoesOn: from what was seen last, event or bookmark, whatever ended it.
func TestWatchGoesOn(t *testing.T) {
	t.Parallel()
	bookmark := event("BOOKMARK", `{"metadata":{"resourceVersion":"7"}}`)
	s, script := scripted(
		t, kube.Options{},
		answer{status: 200, body: event("ADDED", record("a/x")) + event("DELETED", record("a/y")) + event("MODIFIED", record("b"))},
		answer{status: 200, body: bookmark + `{"type":"ADDED","object":{`},
		answer{status: 200, body: event("ERROR", refused(500, "InternalError").body)},
		answer{status: 503, body: "no backend"},
		answer{status: 200, body: "<html>"},
		answer{status: 200, body: event("ERROR", refused(410, "Expired").body)},
	)
	var seen []string
	err := s.Watch(t.Context(), "a/", 3, func(e store.Event) error {
		seen = append(seen, fmt.Sprint(e.Key, " ", e.Revision, " ", e.Deleted))
		return nil
	})
	if want := []string{"a/x 5 false", "a/y 5 true"}; !errors.Is(err, store.ErrCompacted) || !slices.Equal(seen, want) {
		t.Errorf("%v, %v, want %v and %v", seen, err, want, store.ErrCompacted)
	}
	var after []string
	for _, request := range script.requests() {
		_, from, _ := strings.Cut(request, "&resourceVersion=")
		after = append(after, strings.TrimSuffix(from, "&watch=true"))
	}
	if want := []string{"3", "5", "7", "7", "7", "7"}; !slices.Equal(after, want) {
		t.Errorf("it watched after %v, want %v", after, want)
	}
}

// TestWatchEnds: what isn't allowed, or isn't there, is told at once.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		answer answer
		want   error // of the store's, or nil
		says   string
	}{
		{"forbidden", refused(403, "Forbidden"), nil, "because"},
		{"unauthorized", refused(401, "Unauthorized"), nil, "because"},
		{"no such resource", answer{status: 404, body: "404 page not found"}, nil, "crds.yaml"},
		{"a bad request", refused(400, "BadRequest"), kube.ErrInvalid, "because"},
		{"compacted", refused(410, "Expired"), store.ErrCompacted, "because"},
		{"compacted meanwhile", answer{status: 200, body: event("ERROR", refused(410, "Gone").body)}, store.ErrCompacted, "because"},
		{"not ours", answer{status: 200, body: event("ADDED", strings.Replace(record("a/x"), `"a/x"`, `"a/y"`, 1))}, store.ErrCorrupt, `"a/y"`},
	} {
		s, script := scripted(t, kube.Options{}, test.answer)
		err := s.Watch(t.Context(), "a/", 3, ignore)
		if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "watch a/") {
			t.Errorf("%s: %v, want %v and %q", test.name, err, test.want, test.says)
		}
		if n := len(script.requests()); n > 2 {
			t.Errorf("%s: %d requests", test.name, n)
		}
	}
}

// TestWatchNodeAnew: where the API server has forgotten what came after what was
// seen, a Node is read anew, and told if it is another by now.
func TestWatchNodeAnew(t *testing.T) {
	t.Parallel()
	node := func(kind, version, uid string) string {
		return event(kind, fmt.Sprintf(`{"metadata":{"uid":%q,"resourceVersion":%q}}`, uid, version))
	}
	s, script := scripted(
		t, kube.Options{},
		answer{status: 200, body: node("ADDED", "5", "u1")},
		refused(410, "Expired"),
		answer{status: 200, body: node("ADDED", "5", "u1") + node("MODIFIED", "6", "u1") + event("ERROR", refused(410, "Expired").body)},
		answer{status: 200, body: node("ADDED", "9", "u2")},
		refused(403, "Forbidden"),
	)
	var told []string
	err := s.WatchNode(t.Context(), "n1", func(n kube.Node) error {
		told = append(told, string(n.UID))
		return nil
	})
	if want := []string{"u1", "u2"}; err == nil || !slices.Equal(told, want) {
		t.Errorf("%v, %v, want %v", told, err, want)
	}
	const path = "GET /api/v1/nodes?"
	const ends = "fieldSelector=metadata.name%3Dn1&resourceVersion="
	want := []string{
		path + ends + "0&watch=true", path + "allowWatchBookmarks=true&" + ends + "5&watch=true", path + ends + "0&watch=true",
		path + ends + "0&watch=true", path + "allowWatchBookmarks=true&" + ends + "9&watch=true",
	}
	if got := script.requests(); !slices.Equal(got, want) {
		t.Errorf("it asked %v, want %v", got, want)
	}
}

// TestWatchPauses: a server that ends every watch at once isn't asked without end.
func TestWatchPauses(t *testing.T) {
	t.Parallel()
	s, script := scripted(t, kube.Options{}, answer{status: 200})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.Watch(ctx, "a/", 3, ignore); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want %v", err, context.DeadlineExceeded)
	}
	if n := len(script.requests()); n < 3 || n > 8 { // after 25..50 ms, 50..100, 100..200, and so on
		t.Errorf("%d requests in a second: %v", n, script.requests())
	}
}

// TestFinalizers: an object that somebody else holds isn't deleted yet.
func TestFinalizers(t *testing.T) {
	t.Parallel()
	s, _ := scripted(t, kube.Options{}, answer{status: 200, body: strings.Replace(record("a"), `"name"`, `"finalizers":["example.com/hold"],"name"`, 1)})
	if err := s.Delete(t.Context(), "a", 5); err == nil || !strings.Contains(err.Error(), "example.com/hold") {
		t.Errorf("%v, want the finalizer", err)
	}
}

// TestOptions: what can't be used is named.
func TestOptions(t *testing.T) {
	t.Parallel()
	nothing := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(nothing, nil, 0o600))
	text, err := json.Marshal("not a kubeconfig")
	must(t, err)
	odd := filepath.Join(t.TempDir(), "odd")
	must(t, os.WriteFile(odd, text, 0o600))
	for _, test := range []struct {
		says string
		o    kube.Options
	}{
		{"KUBERNETES_SERVICE_HOST", kube.Options{}},
		{`"prod"`, kube.Options{Context: "prod"}},
		{"/no/such", kube.Options{Kubeconfig: "/no/such"}},
		{nothing, kube.Options{Kubeconfig: nothing}},
		{odd, kube.Options{Kubeconfig: odd}},
		{"context: prod", kube.Options{Kubeconfig: writeKubeconfig(t, "http://k:1"), Context: "prod"}},
		{"%zz", kube.Options{Kubeconfig: writeKubeconfig(t, "http://k/%zz")}},
		{`node "n1"`, kube.Options{Owner: kube.Owner{Node: "n1"}}},
		{`UID "u1"`, kube.Options{Owner: kube.Owner{UID: "u1"}}},
	} {
		if s, err := kube.Open(test.o); !errors.Is(err, kube.ErrOptions) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%+v: %v, %v, want %s", test.o, s, err, test.says)
		}
	}
}
