// Command hello is the least that a Go program can do, to compare start-up
// times with.
package main

import "os"

func main() {
	if _, err := os.Stdout.WriteString("hello\n"); err != nil {
		os.Exit(1)
	}
}
