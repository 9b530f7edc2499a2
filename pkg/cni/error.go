package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlay-cni/overlay-cni/ipam"
	"github.com/overlay-cni/overlay-cni/pkg/config"
	"github.com/overlay-cni/overlay-cni/pkg/lease"
	"github.com/overlay-cni/overlay-cni/pkg/node"
	"github.com/overlay-cni/overlay-cni/pkg/nodestate"
	"github.com/overlay-cni/overlay-cni/pkg/store"
)

// Error codes of our own; the specification leaves 100 and above to plugins.
const (
	// CodeInterfaceExists: CNI_IFNAME exists in the container.
	CodeInterfaceExists uint = 100
	// CodeAddressUnavailable: a requested address is taken or isn't ours.
	CodeAddressUnavailable uint = 101
	// CodeDrift: CHECK found a difference.
	CodeDrift uint = 102
	// CodePermission: the plugin lacks privileges.
	CodePermission uint = 103
	// CodeCorrupt: a ledger or store can't be read.
	CodeCorrupt uint = 104
	// CodeConflict: the network can't be had beside what is there.
	CodeConflict uint = 105
)

// Errors of the verbs.
var (
	// ErrInterfaceExists: see CodeInterfaceExists.
	ErrInterfaceExists = errors.New("interface exists")
	// ErrNamespace: CNI_NETNS can't be used.
	ErrNamespace = errors.New("invalid network namespace")
	// ErrPrevResult: prevResult is missing or doesn't fit.
	ErrPrevResult = errors.New("invalid prevResult")
)

// match gives the errors of a kind their CNI code.
type match struct {
	is   func(error) bool
	code uint
}

// codes gives errors their CNI code. The first match counts; what is found
// nowhere is an internal error.
func codes() []match {
	return []match{
		{as[*types.Error], 0}, // has its code already
		{as[*config.ArgsError], types.ErrInvalidEnvironmentVariables},
		{as[*config.SyntaxError], types.ErrDecodingFailure},
		{is(ErrInterfaceExists), CodeInterfaceExists},
		{is(ErrNamespace), types.ErrInvalidNetNS},
		{is(ErrPrevResult), types.ErrInvalidNetworkConfig},
		{is(os.ErrPermission), CodePermission},
		{isConflict, CodeConflict},
		{as[*lease.FieldError], types.ErrInvalidNetworkConfig},
		{is(nodestate.ErrNotReady), types.ErrTryAgainLater},
		{is(ipam.ErrFull), types.ErrTryAgainLater},
		{is(node.ErrBusy), types.ErrTryAgainLater},
		{is(lease.ErrNoBlock), types.ErrTryAgainLater},
		{is(ipam.ErrLocked), types.ErrTryAgainLater},
		{is(store.ErrLocked), types.ErrTryAgainLater},
		{is(ipam.ErrTaken), CodeAddressUnavailable},
		{is(ipam.ErrOutsideRange), CodeAddressUnavailable},
		{is(ipam.ErrWithdrawn), CodeAddressUnavailable},
		{is(ipam.ErrInvalid), types.ErrInvalidNetworkConfig},
		{is(ipam.ErrCorrupt), CodeCorrupt},
		{is(store.ErrCorrupt), CodeCorrupt},
		{isDrift, CodeDrift},
	}
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// coded gives an error its CNI code.
func coded(err error, code uint) error {
	if err == nil {
		return nil
	}
	return types.NewError(code, err.Error(), "")
}

// toCNI turns any error into one with a CNI code.
func toCNI(err error) *types.Error {
	for _, c := range codes() {
		if !c.is(err) {
			continue
		}
		if c.code == 0 {
			break
		}
		return types.NewError(c.code, err.Error(), "")
	}
	var e *types.Error
	if errors.As(err, &e) {
		return types.NewError(e.Code, err.Error(), e.Details)
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}

// PrintError writes an error object as the specification wants it, with the
// cniVersion that the library's own printing leaves out.
func PrintError(w io.Writer, cniVersion string, e *types.Error) error {
	data, err := json.MarshalIndent(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{cniVersion, e}, "", "    ")
	if err != nil {
		return fmt.Errorf("encode error: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write error: %w", err)
	}
	return nil
}
