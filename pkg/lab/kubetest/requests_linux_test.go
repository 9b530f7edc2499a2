package kubetest

import (
	"maps"
	"strings"
	"testing"
)

func TestParseRequests(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, metrics string
		want          map[string]int
		wantErr       string
	}{
		{name: "none"},
		{
			name: "others",
			metrics: "# TYPE apiserver_request_total counter\n" +
				`apiserver_request_total{code="200",resource="",subresource="/readyz",verb="GET"} 5` + "\n" +
				`apiserver_request_terminations_total{code="429",resource="nodes",subresource="",verb="GET"} 5` + "\n",
		},
		{
			name: "by verb and resource",
			metrics: `apiserver_request_total{code="200",resource="nodes",subresource="",verb="GET"} 5` + "\n" +
				`apiserver_request_total{code="404",resource="nodes",subresource="",verb="GET"} 2` + "\n" +
				`apiserver_request_total{code="200",resource="nodes",subresource="status",verb="PATCH"} 1.2e+06` + "\n",
			want: map[string]int{"GET nodes": 7, "PATCH nodes/status": 1200000},
		},
		{
			name: "watches that are open and over",
			metrics: `apiserver_longrunning_requests{resource="nodes",subresource="",verb="WATCH"} 2` + "\n" +
				`apiserver_request_total{code="200",resource="nodes",subresource="",verb="WATCH"} 3` + "\n",
			want: map[string]int{"WATCH nodes": 5},
		},
		{
			name:    "no number",
			metrics: `apiserver_request_total{code="200",resource="nodes",subresource="",verb="GET"} many`,
			wantErr: "many",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := requests([]byte(test.metrics))
			if (err != nil) != (test.wantErr != "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
				t.Fatalf("got error %v, want %q", err, test.wantErr)
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
