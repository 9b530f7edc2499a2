package conformance

// How long a plugin takes at most.

import (
	"context"
	"slices"
	"time"
)

// defaultLimit is the time limit where the options have none.
const defaultLimit = 10 * time.Second

func limitClauses() []Clause {
	const of = "time limits"
	return []Clause{
		behaviour("limit-01", Should, of, "Each command ends within a limit that people wait for.", inTime(1)).
			note("Options.TimeLimit, 10 s if it isn't set"),
		behaviour("limit-02", Should, of, "Each command ends within the limit when it is called for many containers at once.", inTime(crowdInTime)).
			note("16 at once; the limit is that of behaviour-limit-01"),
	}
}

// crowdInTime is how many commands are called at once.
const crowdInTime = 16

// inTime calls all commands for a number of containers at once.
func inTime(number int) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		all, err := b.guests(number)
		if err != nil {
			return err
		}
		attached := false
		for _, command := range b.commands() {
			all = slices.DeleteFunc(all, func(g *guest) bool { return command == "CHECK" && !g.attached() })
			b.atOnce(ctx, command, all)
			for _, one := range all {
				if err := b.ended(one.slowest, number); err != nil {
					return err
				}
				attached = attached || command == "ADD" && one.attached()
			}
		}
		if !attached {
			return nothing("no ADD succeeded")
		}
		return nil
	}
}

// ended is violated when a plugin took too long.
func (b *bench) ended(x *Exchange, number int) error {
	if limit := b.timeLimit(); x.Took >= limit {
		return x.violated("it took %.1f s, the limit is %.1f s; %d were called at once", x.Took.Seconds(), limit.Seconds(), number)
	}
	return nil
}

// timeLimit is how long a command may take. No plugin is waited for longer than
// patience has it.
func (b *bench) timeLimit() time.Duration {
	limit := defaultLimit
	if b.limit > 0 {
		limit = b.limit
	}
	return min(limit, patience)
}
