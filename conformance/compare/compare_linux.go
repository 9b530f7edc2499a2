package compare

// Running the targets, and what differs from what is known.

import (
	"context"
	"fmt"

	"github.com/overlay-cni/overlay-cni/conformance"
)

// A Comparison is what has come of targets.
type Comparison struct {
	Sides []Side
}

// A Side is a target with its report, nil where programs were missing.
type Side struct {
	*Target
	Report *conformance.Report
}

// Run holds the targets to the clauses, one after the other.
func Run(ctx context.Context, targets []*Target, o conformance.Options, begins func(*Target)) (*Comparison, error) {
	c := &Comparison{}
	for _, t := range targets {
		side := Side{Target: t}
		if len(t.Missing) == 0 {
			begins(t)
			var err error
			if side.Report, err = conformance.Run(ctx, t.Target, o); err != nil {
				return nil, fmt.Errorf("target %s: %w", t.Name, err)
			}
		}
		c.Sides = append(c.Sides, side)
	}
	return c, nil
}

// A Surprise is an outcome that isn't the known one.
type Surprise struct {
	Side    *Side
	Outcome *conformance.Outcome
}

// String says what is surprising.
func (s Surprise) String() string {
	if s.Outcome.Verdict == conformance.Fail {
		return fmt.Sprintf("%s: nobody has looked at this yet:\n%s\n%s", s.Side.Name, &s.Outcome.Clause, s.Outcome.Text())
	}
	return fmt.Sprintf("%s: %s is known to fail, and is: %s %s", s.Side.Name, s.Outcome.Clause.ID, s.Outcome.Verdict, s.Outcome.Reason)
}

// Surprises are all outcomes that aren't the known ones.
func (c *Comparison) Surprises() []Surprise {
	var all []Surprise
	for i := range c.Sides {
		s := &c.Sides[i]
		for _, o := range s.outcomes() {
			known := s.finding(o.Clause.ID)
			if known != nil && known.Sometimes {
				continue
			}
			if (o.Verdict == conformance.Fail) != (known != nil) {
				all = append(all, Surprise{s, o})
			}
		}
	}
	return all
}

// outcomes are those of the report, if there is one.
func (s *Side) outcomes() []*conformance.Outcome {
	if s.Report == nil {
		return nil
	}
	all := make([]*conformance.Outcome, len(s.Report.Outcomes))
	for i := range all {
		all[i] = &s.Report.Outcomes[i]
	}
	return all
}

// unexercised are the clauses that apply to none of our own targets.
func (c *Comparison) unexercised() []conformance.Clause {
	exercised := map[string]bool{}
	var all []conformance.Clause
	for i := range c.Sides {
		if !c.Sides[i].Own {
			continue
		}
		for _, o := range c.Sides[i].outcomes() {
			exercised[o.Clause.ID] = exercised[o.Clause.ID] || o.Verdict != conformance.NotApplicable
		}
	}
	for _, clause := range conformance.Clauses() {
		if !exercised[clause.ID] {
			all = append(all, clause)
		}
	}
	return all
}
