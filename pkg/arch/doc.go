// Package arch guards the architecture. Its tests say which packages are pure,
// what the plugins may link and how large they may be, that every package says
// what it is for, and how long files and functions are.
package arch
