package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// command is one of the program's.
type command struct {
	name  string // one word or two
	about string
	// operand is what follows the name besides flags, as help calls it; "":
	// nothing does. Once the flags are parsed it is their only argument.
	operand string
	// setup declares the flags, and returns what to do once they are parsed.
	setup func(flags *flag.FlagSet) action
}

type action func(ctx context.Context, stdout io.Writer) error

// errUsage says that the command line wasn't understood.
var errUsage = errors.New("see overlayctl help")

func usagef(format string, args ...any) error {
	return fmt.Errorf("%s; %w", fmt.Sprintf(format, args...), errUsage)
}

// run finds the command and does it.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return usagef("no command")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) == 1 {
			return overview(stdout)
		}
		args = append(args[1:len(args):len(args)], "-help")
	case "-version", "--version":
		args = append([]string{"version"}, args[1:]...)
	}
	c, rest, err := find(args)
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("overlayctl "+c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	do := c.setup(flags)
	if err := c.parse(flags, rest); errors.Is(err, flag.ErrHelp) {
		return c.help(flags, stdout)
	} else if err != nil {
		return usagef("%s: %v", c.name, err)
	}
	return do(ctx, stdout)
}

// parse parses the flags, which may stand before and after the operand.
func (c *command) parse(flags *flag.FlagSet, rest []string) error {
	if err := flags.Parse(rest); err != nil {
		return err
	}
	var operands []string
	for flags.NArg() > 0 {
		operands = append(operands, flags.Arg(0))
		if err := flags.Parse(flags.Args()[1:]); err != nil {
			return err
		}
	}
	wanted := 0
	if c.operand != "" {
		wanted = 1
	}
	if len(operands) > wanted {
		return fmt.Errorf("unknown argument %q", operands[wanted])
	}
	if len(operands) < wanted {
		return fmt.Errorf("%s is missing", c.operand)
	}
	return flags.Parse(append([]string{"--"}, operands...))
}

// find returns the command that the arguments begin with, and what follows.
func find(args []string) (*command, []string, error) {
	all := commands()
	for i := range all {
		words := strings.Fields(all[i].name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == all[i].name {
			return &all[i], args[len(words):], nil
		}
	}
	return nil, nil, unknown(args)
}

// unknown says what there is instead of what was asked for: the commands that
// begin with the same word, or else all.
func unknown(args []string) error {
	asked := args[:min(2, len(args))]
	if i := slices.IndexFunc(asked, func(word string) bool { return strings.HasPrefix(word, "-") }); i > 0 {
		asked = asked[:i]
	}
	var all, alike []string
	for _, c := range commands() {
		all = append(all, c.name)
		if strings.HasPrefix(c.name, asked[0]+" ") {
			alike = append(alike, c.name)
		}
	}
	if len(alike) == 0 {
		alike = all
	}
	return usagef("unknown command %q: there is %s", strings.Join(asked, " "), strings.Join(alike, ", "))
}

// overview lists all commands.
func overview(stdout io.Writer) error {
	t := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "usage: overlayctl COMMAND [FLAGS]")
	fmt.Fprintln(t)
	for _, c := range commands() {
		fmt.Fprintf(t, "  %s\t%s\n", strings.TrimSpace(c.name+" "+c.operand), c.about)
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "overlayctl help COMMAND lists a command's flags. The exit status is 0 when it did")
	fmt.Fprintln(t, "what it should, 1 when it failed or an audit found differences, and 2 when the")
	fmt.Fprintln(t, "command line wasn't understood.")
	return t.Flush()
}

// help lists a command's flags.
func (c *command) help(flags *flag.FlagSet, stdout io.Writer) error {
	_, err := fmt.Fprintf(stdout, "usage: overlayctl %s [FLAGS]\n\n%s\n\n", strings.TrimSpace(c.name+" "+c.operand), c.about)
	flags.SetOutput(stdout)
	flags.PrintDefaults()
	return err
}
