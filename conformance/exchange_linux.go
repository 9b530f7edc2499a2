package conformance

// One execution of a plugin: what it is given, what it gives back.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// An Exchange is one execution of a plugin.
type Exchange struct {
	Plugin  string        `json:"plugin"`
	Command string        `json:"command"`
	Env     []string      `json:"env"`
	Stdin   string        `json:"stdin"`
	Status  int           `json:"status"` // -1: killed, or never started
	Stdout  string        `json:"stdout"`
	Stderr  string        `json:"stderr"`
	Took    time.Duration `json:"-"`
	Log     string        `json:"log,omitempty"` // its end, of the node's daemon, when that may tell why
}

// MarshalJSON has the time as the rest of a report does.
func (x *Exchange) MarshalJSON() ([]byte, error) {
	type plain Exchange
	return json.Marshal(struct {
		*plain
		Millis int64 `json:"milliseconds"`
	}{(*plain)(x), x.Took.Milliseconds()})
}

// An output is what a program prints, up to a size that no result has, so that
// one which prints without end doesn't fill the memory. Of what is more it knows
// how much it was.
type output struct {
	kept bytes.Buffer
	more int
}

// Write takes all, and keeps what there is room for.
func (o *output) Write(text []byte) (int, error) {
	const most = 4 << 20
	room := min(len(text), most-o.kept.Len())
	o.kept.Write(text[:room])
	o.more += len(text) - room
	return len(text), nil
}

// String returns what was printed.
func (o *output) String() string {
	if o.more > 0 {
		return fmt.Sprintf("%s ... and %d bytes more", o.kept.String(), o.more)
	}
	return o.kept.String()
}

// A Violation says how a clause was broken, and by what.
type Violation struct {
	Text     string
	Exchange *Exchange // nil where it shows in the kernel alone
}

// Error returns the text.
func (v *Violation) Error() string { return v.Text }

// violated returns what an exchange has broken.
func (x *Exchange) violated(format string, args ...any) error {
	return &Violation{Text: fmt.Sprintf("%s %s: ", x.Plugin, x.Command) + fmt.Sprintf(format, args...), Exchange: x}
}

// An inapplicable error is why a clause has nothing to say about a target.
type inapplicable struct{ reason string }

// Error returns the reason.
func (n *inapplicable) Error() string { return n.reason }

// nothing returns why there was nothing to check.
func nothing(format string, args ...any) error { return &inapplicable{fmt.Sprintf(format, args...)} }

// isNothing says whether an error is why there was nothing to check.
func isNothing(err error) bool {
	_, ok := errors.AsType[*inapplicable](err)
	return ok
}

// succeeds is violated by a status other than zero.
func (x *Exchange) succeeds(why string) error {
	if x.Status != 0 {
		return x.violated("it failed%s; %s", x.said(), why)
	}
	return nil
}

// fails is violated by a status of zero.
func (x *Exchange) fails(why string) error {
	if x.Status == 0 {
		return x.violated("it succeeded; %s", why)
	}
	return nil
}

// said is what the plugin gave as its reason.
func (x *Exchange) said() string {
	if e, err := x.refusal(); err == nil {
		return fmt.Sprintf(" with code %v (%s)", e["code"], text(e["msg"]))
	}
	return fmt.Sprintf(" with status %d", x.Status)
}

// object reads the standard output, which must be one JSON object and nothing
// else.
func (x *Exchange) object() (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(x.Stdout))
	d.UseNumber()
	var o map[string]any
	if err := d.Decode(&o); err != nil || o == nil {
		return nil, fmt.Errorf("standard output is no JSON object: %.200q", x.Stdout)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("standard output goes on after the JSON object: %.200q", x.Stdout[d.InputOffset():])
	}
	return o, nil
}

// refusal reads the standard output as an error: an object with a code that is
// a number and a message.
func (x *Exchange) refusal() (map[string]any, error) {
	o, err := x.object()
	if err != nil {
		return nil, err
	}
	if _, ok := whole(o["code"]); !ok {
		return nil, fmt.Errorf("the error has no numeric code: %.200q", x.Stdout)
	}
	if text(o["msg"]) == "" {
		return nil, fmt.Errorf("the error has no msg: %.200q", x.Stdout)
	}
	return o, nil
}

// code is that of the error, or -1.
func (x *Exchange) code() int64 {
	if e, err := x.refusal(); err == nil {
		code, _ := whole(e["code"])
		return code
	}
	return -1
}

// failsWith is violated by anything but an error of one of some codes.
func (x *Exchange) failsWith(why string, codes ...int64) error {
	if err := x.fails(why); err != nil {
		return err
	}
	if _, err := x.refusal(); err != nil {
		return x.violated("%v", err)
	}
	if !slices.Contains(codes, x.code()) {
		return x.violated("code %d, want %s; %s", x.code(), strings.Trim(fmt.Sprint(codes), "[]"), why)
	}
	return nil
}

// mentions says whether the error's texts have a word.
func (x *Exchange) mentions(word string) bool {
	e, err := x.refusal()
	return err == nil && strings.Contains(text(e["msg"])+" "+text(e["details"]), word)
}

// text is a value that is a string, or nothing.
func text(v any) string {
	s, _ := v.(string)
	return s
}

// whole is a value that is a whole number.
func whole(v any) (int64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := n.Int64()
	return i, err == nil
}

// String shows an exchange as people read it.
func (x *Exchange) String() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "sent to %s: %s\n  stdin:  %s\n", x.Plugin, strings.Join(x.Env, " "), short(x.Stdin))
	fmt.Fprintf(&b, "came back after %s: status %d\n  stdout: %s\n  stderr: %s\n", x.Took.Round(time.Millisecond), x.Status, short(x.Stdout), short(x.Stderr))
	if x.Log != "" {
		fmt.Fprintf(&b, "  the daemon's log ends with:\n    %s\n", strings.ReplaceAll(x.Log, "\n", "\n    "))
	}
	return b.String()
}

// short is a text on one line, without the middle of what is very long.
func short(s string) string {
	const most = 2000
	if compact := new(bytes.Buffer); json.Compact(compact, []byte(s)) == nil {
		s = compact.String()
	}
	if len(s) > most {
		s = fmt.Sprintf("%s ... (%d bytes) ... %s", s[:most/2], len(s), s[len(s)-most/2:])
	}
	return strings.Join(strings.Fields(s), " ")
}
