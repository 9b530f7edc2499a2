// Command empty is a CNI plugin that does nothing, to show what a plugin costs
// before it does anything.
package main

import (
	"io"
	"os"
)

func main() {
	if _, err := io.ReadAll(os.Stdin); err != nil {
		os.Exit(1)
	}
	if os.Getenv("CNI_COMMAND") != "ADD" {
		return
	}
	if _, err := os.Stdout.WriteString(`{"cniVersion":"1.1.0"}`); err != nil {
		os.Exit(1)
	}
}
