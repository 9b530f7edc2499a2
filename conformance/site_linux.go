package conformance

// What differs from node to node, for conflists and daemons to name.

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A site is what a node is called and where it is.
type site struct {
	name   string
	index  int
	v4, v6 netip.Addr
	shared string // a folder that the nodes of a network share
	api    string
}

// A variable is what texts of the conflist may have as ${NAME}, and a daemon as
// an environment variable.
type variable struct{ name, value string }

func (s *site) variables() []variable {
	return []variable{
		{"NODE", s.name},
		{"INDEX", strconv.Itoa(s.index)},
		{"ADDRESS", s.v4.String()},
		{"ADDRESS6", s.v6.String()},
		{"SHARED", s.shared},
		{"API", s.api},
	}
}

// environ are the variables as a process has them.
func (s *site) environ() []string {
	var lines []string
	for _, v := range s.variables() {
		lines = append(lines, v.name+"="+v.value)
	}
	return lines
}

// fill puts the node's values into a text of JSON.
func (s *site) fill(text string) string {
	var pairs []string
	for _, v := range s.variables() {
		quoted, err := json.Marshal(v.value)
		if err != nil {
			continue // a string always has its JSON
		}
		pairs = append(pairs, "${"+v.name+"}", string(quoted[1:len(quoted)-1]))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// checkVariables says which variable of a conflist isn't known, or has no value.
func checkVariables(conflist []byte, api bool) error {
	known := (&site{}).variables()
	for _, name := range regexp.MustCompile(`\$\{([^}]*)\}`).FindAllSubmatch(conflist, -1) {
		if !slices.ContainsFunc(known, func(v variable) bool { return v.name == string(name[1]) }) {
			return fmt.Errorf("%s is no variable of a node; there are ${NODE}, ${INDEX}, ${ADDRESS}, ${ADDRESS6}, ${SHARED} and ${API}", name[0])
		}
		if string(name[1]) == "API" && !api {
			return errors.New("${API} is in it, and the target has no API server")
		}
	}
	return nil
}
