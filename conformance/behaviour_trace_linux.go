package conformance

// Reading what strace writes. Pure.

import (
	"strings"
)

// A work is what a program and those that it has executed asked of the kernel.
type work struct {
	programs int // executed
	netlink  int // messages sent
	calls    int
}

func (w work) plus(other work) work {
	return work{w.programs + other.programs, w.netlink + other.netlink, w.calls + other.calls}
}

// workOf counts what is in a trace of strace -f -yy -v. A call that another
// process's interrupts is on two lines, the second of which says that it is
// resumed. What a call is given is on the first, its result on the second.
func workOf(trace string) work {
	var w work
	executing := map[string]bool{} // processes whose execve isn't finished
	for line := range strings.Lines(trace) {
		process, event, _ := strings.Cut(strings.TrimSpace(line), " ")
		event = strings.TrimSpace(event)
		name, args, isCall := strings.Cut(event, "(")
		if !isCall || !isName(name) {
			if strings.HasPrefix(event, "<... execve resumed>") && executing[process] && strings.HasSuffix(event, " = 0") {
				w.programs++
			}
			continue
		}
		w.calls++
		switch name {
		case "execve", "execveat":
			executing[process] = strings.HasSuffix(event, "<unfinished ...>")
			if strings.HasSuffix(event, " = 0") {
				w.programs++
			}
		case "sendto", "sendmsg", "sendmmsg", "write", "writev":
			w.netlink += messages(args)
		}
	}
	return w
}

// isName says whether a text is the name of a system call.
func isName(text string) bool {
	return text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// messages are those of netlink in a call: strace shows their headers where it
// knows them. The socket comes first among the arguments.
func messages(args string) int {
	socket, rest, _ := strings.Cut(args, ", ")
	if !strings.Contains(socket, "<NETLINK:") {
		return 0
	}
	return max(1, strings.Count(rest, "nlmsg_len="))
}
