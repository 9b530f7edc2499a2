package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Fake is a Target in memory, for the tests of what uses one. The zero value
// is an empty system.
type Fake struct {
	mu      sync.Mutex
	objects []Object
	// Applied records all changes made.
	Applied []Change
	// Fail, when set, is asked before each change; its error is returned and
	// the change isn't made.
	Fail func(Change) error
}

// Set replaces what exists.
func (f *Fake) Set(objects ...Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects = slices.Clone(objects)
}

// Observe implements Target.
func (f *Fake) Observe(context.Context) ([]Object, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.objects), nil
}

// Apply implements Target.
func (f *Fake) Apply(_ context.Context, changes []Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, c := range changes {
		if f.Fail != nil {
			if err := f.Fail(c); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", c.Subject(), err))
				continue
			}
		}
		key := c.Subject().Key()
		f.objects = slices.DeleteFunc(f.objects, func(o Object) bool { return o.Key() == key })
		if c.Want != nil {
			f.objects = append(f.objects, c.Want)
		}
		f.Applied = append(f.Applied, c)
	}
	return errors.Join(errs...)
}
