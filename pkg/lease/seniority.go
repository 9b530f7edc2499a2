package lease

import (
	"cmp"
	"math"

	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// seniority says which of two entries that exclude each other stays: the one
// that was created first, whatever was changed about it since, so that all nodes
// decide alike. Where the store doesn't know when entries were created, it is the
// one that wasn't touched for longer; where it knows that only by the second, the
// one that comes first by its key.
type seniority struct {
	created int64
	key     string
}

func seniorityOf(e *store.Entry) seniority {
	if e.Created == 0 {
		return seniority{created: int64(e.Revision), key: e.Key}
	}
	return seniority{created: e.Created, key: e.Key}
}

// newcomer is the seniority of what isn't written yet.
func newcomer() seniority { return seniority{created: math.MaxInt64} }

// before says whether an entry stays where another is excluded by it.
func (s seniority) before(other seniority) bool {
	return cmp.Or(cmp.Compare(s.created, other.created), cmp.Compare(s.key, other.key)) < 0
}
