package kube

import (
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

func TestCondition(t *testing.T) {
	t.Parallel()
	then := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	now := metav1.NewTime(then.Add(time.Hour))
	accepted := metav1.Condition{Type: store.Accepted, Status: "True", Reason: "Valid", Message: "ok", ObservedGeneration: 2, LastTransitionTime: then}
	other := metav1.Condition{Type: "Other", Status: "False", Reason: "R", LastTransitionTime: then}
	change := func(by func(*metav1.Condition)) metav1.Condition {
		c := accepted
		by(&c)
		return c
	}
	for _, test := range []struct {
		name       string
		have       []metav1.Condition
		set        store.Condition
		generation int64
		want       []metav1.Condition // nil: nothing changes
	}{
		{"the first", nil, store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "ok"}, 2, []metav1.Condition{change(func(c *metav1.Condition) { c.LastTransitionTime = now })}},
		{"beside another", []metav1.Condition{other}, store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "ok"}, 2,
			[]metav1.Condition{other, change(func(c *metav1.Condition) { c.LastTransitionTime = now })}},
		{"as it is", []metav1.Condition{other, accepted}, store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "ok"}, 2, nil},
		{"of a new generation", []metav1.Condition{accepted, other}, store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "ok"}, 3,
			[]metav1.Condition{change(func(c *metav1.Condition) { c.ObservedGeneration = 3 }), other}},
		{"another reason", []metav1.Condition{accepted}, store.Condition{Type: store.Accepted, Status: true, Reason: "New", Message: "ok"}, 2,
			[]metav1.Condition{change(func(c *metav1.Condition) { c.Reason = "New" })}},
		{"another message", []metav1.Condition{accepted}, store.Condition{Type: store.Accepted, Status: true, Reason: "Valid", Message: "new"}, 2,
			[]metav1.Condition{change(func(c *metav1.Condition) { c.Message = "new" })}},
		{"a transition", []metav1.Condition{accepted}, store.Condition{Type: store.Accepted, Status: false, Reason: "Valid", Message: "ok"}, 2,
			[]metav1.Condition{change(func(c *metav1.Condition) { c.Status, c.LastTransitionTime = "False", now })}},
	} {
		before := append([]metav1.Condition(nil), test.have...)
		got, changed := with(test.have, test.set, test.generation, now.Time)
		want := test.want
		if want == nil {
			want = test.have
		}
		if changed != (test.want != nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v, want %+v", test.name, got, changed, want)
		}
		if !reflect.DeepEqual(test.have, before) {
			t.Errorf("%s: what was read has changed: %+v", test.name, test.have)
		}
	}
}
