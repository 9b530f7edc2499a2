package local_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/overlay-cni/overlay-cni/pkg/store"
	"github.com/overlay-cni/overlay-cni/pkg/store/local"
)

// Two nodes want the same block. One of them gets it, and a third watches.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Print(err)
		return
	}
	defer os.RemoveAll(dir)
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		log.Print(err)
		return
	}
	defer s.Close()

	ctx := context.Background()
	_, revision, err := s.List(ctx, "lease/")
	if err != nil {
		log.Print(err)
		return
	}
	for _, node := range []string{"a", "b"} {
		_, err := s.Create(ctx, "lease/10.244.3.0-24", []byte("node "+node))
		fmt.Println(node, "is late:", errors.Is(err, store.ErrExists))
	}

	seen := errors.New("seen")
	err = s.Watch(ctx, "lease/", revision, func(event store.Event) error {
		fmt.Printf("%s at %d: %s\n", event.Key, event.Revision, event.Value)
		return seen
	})
	fmt.Println(errors.Is(err, seen))
	// Output:
	// a is late: false
	// b is late: true
	// lease/10.244.3.0-24 at 1: node a
	// true
}
