package conformance_test

// What the fake plugins do wrong when they are killed, called at once, or find
// a node that was rebooted. Pauses make wide what would be a matter of luck.

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// linger is long against what a plugin does, and short against what a test may
// take.
const linger = 60 * time.Millisecond

func pause(d time.Duration) { <-time.After(d) }

// unnamed is a file that belongs to an attachment and doesn't name it.
func unnamed(kind string) string { return runFile(kind + "-" + hostEnd()) }

// lock takes a lock that other plugins may have. It goes with the process.
func lock(how int) error {
	fd, err := unix.Open(runFile("lock"), unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	return unix.Flock(fd, how)
}

// beginAdd is what happens before ADD has done anything.
func (f *fake) beginAdd() error {
	switch f.wrong {
	case "add-again": // takes what was killed for what still runs
		if exists(unnamed("adding")) {
			return refuse(11, "the container is being added")
		}
		return os.WriteFile(unnamed("adding"), nil, 0o600)
	case "add-busy": // doesn't wait for others
		if lock(unix.LOCK_EX|unix.LOCK_NB) != nil {
			return refuse(100, "another container is being added")
		}
		pause(linger)
	case "add-crowd": // all wait for each other
		if err := lock(unix.LOCK_EX); err != nil {
			return err
		}
		pause(2 * linger)
	case "add-del": // doesn't expect that somebody deletes
		pause(2 * linger)
		if files, _ := filepath.Glob(runFile("deleting-*")); len(files) > 0 {
			return &refusal{raw: "somebody deletes"}
		}
	case "boot": // takes the network of before a reboot for this one's
		if exists(filepath.Join(ipamDir+"-main", "set-up")) && !exists(runFile("set-up")) {
			return refuse(100, "the network isn't there")
		}
		return errors.Join(os.MkdirAll(ipamDir+"-main", 0o700),
			os.WriteFile(filepath.Join(ipamDir+"-main", "set-up"), nil, 0o600), os.WriteFile(runFile("set-up"), nil, 0o600))
	}
	return nil
}

// endAdd is what happens when all but the record of the attachment is there.
func (f *fake) endAdd() error {
	switch f.wrong {
	case "record-last":
		pause(linger)
	case "add-again":
		pause(linger)
		return os.Remove(unnamed("adding"))
	case "orphan":
		self, err := os.Executable()
		if err != nil {
			return err
		}
		child := exec.Command(self)
		child.Args[0] = "fake-child"
		return child.Run()
	}
	return nil
}

// playChild outlives its parent, and makes something that nobody deletes.
func playChild() int {
	parent := os.Getppid()
	pause(linger)
	if os.Getppid() != parent {
		_ = os.WriteFile(runFile("orphan-"+attachment()), nil, 0o600)
	}
	return 0
}

// beginDel is what happens before DEL has done anything. It may think that
// there is nothing to do.
func (f *fake) beginDel() (nothing bool, err error) {
	switch f.wrong {
	case "record-last":
		return !exists(runFile(attachment())), nil
	case "del-record": // forgets the attachment first
		gone := !exists(runFile(attachment()))
		_ = os.Remove(runFile(attachment()))
		pause(linger)
		return gone, nil
	case "del-busy": // doesn't wait for others
		busy := lock(unix.LOCK_EX|unix.LOCK_NB) != nil
		pause(linger)
		return busy, nil
	case "add-del":
		if err := os.WriteFile(unnamed("deleting"), nil, 0o600); err != nil {
			return false, err
		}
		pause(4 * linger)
		return false, os.Remove(unnamed("deleting"))
	}
	return false, nil
}

// forgetStale removes what belongs to attachments that GC's list hasn't.
func (f *fake) forgetStale() {
	valid := strings.Join(f.listed(), " ")
	files, _ := filepath.Glob(runFile("*_*"))
	for _, file := range files {
		if name := strings.TrimPrefix(file, runFile("")); !strings.Contains(valid, name) {
			_ = os.Remove(file)
		}
	}
}

// take is what happens before an address is written down.
func (f *fake) take(address string) error {
	switch f.wrong {
	case "race": // the others have looked by now, too
		pause(linger)
	case "lost":
		taken := filepath.Join(ipamDir, "taken-"+address)
		if err := os.WriteFile(taken, []byte(address), 0o600); err != nil {
			return err
		}
		pause(linger)
		return os.Remove(taken)
	}
	return nil
}

// slow is a plugin that takes its time.
func (f *fake) slow(command string) {
	if f.wrong == "slow" && command == "CHECK" {
		pause(time.Second + linger)
	}
}
