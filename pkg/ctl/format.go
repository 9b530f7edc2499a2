package ctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/overlay-cni/overlay-cni/ipam"
)

// Format is how results are written. It is a flag's value, as encoding.TextMarshaler.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
)

// MarshalText implements encoding.TextMarshaler.
func (f Format) MarshalText() ([]byte, error) { return []byte(f), nil }

// UnmarshalText accepts the known formats.
func (f *Format) UnmarshalText(text []byte) error {
	switch known := Format(text); known {
	case Table, JSON:
		*f = known
		return nil
	}
	return fmt.Errorf("format %q must be %s or %s", text, Table, JSON)
}

// writeJSON writes a value for people and programs.
func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// allocation is one in a result.
type allocation struct {
	Address   string `json:"address"`
	Container string `json:"container"`
	// Truncated: the ledger has no more than the beginning of the container's ID.
	Truncated bool      `json:"truncated,omitempty"`
	Interface string    `json:"interface"`
	Elsewhere bool      `json:"elsewhere,omitempty"`
	Since     time.Time `json:"since,omitzero"`
}

// shown is allocations in a result; never nil, which JSON would call null.
func shown(all []ipam.Allocation) []allocation {
	list := make([]allocation, 0, len(all))
	for _, a := range all {
		s := allocation{
			Address: a.Address.String(), Container: a.ContainerID, Truncated: a.Truncated,
			Interface: a.Interface, Elsewhere: a.Elsewhere,
		}
		if !a.Since.IsZero() {
			s.Since = a.Since.UTC()
		}
		list = append(list, s)
	}
	return list
}

// table writes rows, the first of which are the titles.
func table(out io.Writer, rows [][]string) error {
	var text strings.Builder
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	return nil
}

// list writes values for people.
func list[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ", ")
}

// span writes a time to come or gone by for people, to the second below a minute
// and to the minute above.
func span(d time.Duration) string {
	short := func(d time.Duration) string {
		if d < time.Minute {
			return d.Truncate(time.Second).String()
		}
		return strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
	}
	if d < 0 {
		return short(-d) + " ago"
	}
	return "in " + short(d)
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
