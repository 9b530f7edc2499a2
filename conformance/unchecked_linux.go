package conformance

// What SPEC.md says with must, should or may and no clause checks.

// An Unheld is a sentence of SPEC.md that no clause holds a plugin to.
type Unheld struct {
	Quote  string
	Reason string
}

// Unchecked returns the sentences of SPEC.md with must, should or may that no
// clause quotes, with the reason. Together with the clauses' quotes they are
// all of them.
func Unchecked() []Unheld {
	var all []Unheld
	for _, group := range []struct {
		reason string
		quotes []string
	}{
		{"of the runtime", ofRuntime()},
		{"of the network configuration and who writes it", ofConfiguration()},
		{"it demands nothing: it explains", explains()},
		{"a permission that no plugin can misuse", permits()},
	} {
		for _, quote := range group.quotes {
			all = append(all, Unheld{Quote: quote, Reason: group.reason})
		}
	}
	return append(all, others()...)
}

func ofRuntime() []string {
	return []string{
		"If `disableCheck` is `true`, runtimes must not call `CHECK` for this network configuration list.",
		"If `disableGC` is `true`, runtimes must not call `GC` for this network configuration list.",
		"Any valid plugin configuration objects aggregated from other sources must be appended to the final list of `plugins` for that network name.",
		"the final set of plugins for a network must consist of all the plugin objects in this list, merged with all the plugins loaded from the sibling folder with the same name as the network.",
		"Runtimes may aggregate plugin configuration objects from multiple sources, and must unambiguously associate each loaded plugin configuration object with a single, valid network configuration.",
		"All aggregated plugin configuration objects must be validated, and each plugin with a valid configuration object must be invoked.",
		"The runtime MUST pass through these fields, unchanged, to the invoked plugin, as defined in section 3.",
		"Runtimes must preserve unknown fields in plugin configuration objects when transforming for execution.",
		"CNI runtimes MUST select the highest supported version from the set of network configuration versions given by the `cniVersion` and `cniVersions` fields.",
		"Runtimes MAY consider the set of supported plugin versions as reported by the VERSION command when determining available versions.",
		"The runtime must execute the plugin in the runtime's networking domain.",
		"A runtime should not call `ADD` twice (without an intervening DEL) for the same `(CNI_CONTAINERID, CNI_IFNAME)` tuple.",
		"A `prevResult` must be supplied to CNI plugins as part of a `DEL` command.",
		"A runtime must not call `CHECK` for a container that has not been `ADD`ed, or has been `DEL`eted after its last `ADD`.",
		"A runtime must not call `CHECK` if `disableCheck` is set to `true` in the",
		"A runtime must include a `prevResult` field in the network configuration containing the `Result` of the immediately preceding `ADD` for the container.",
		"The runtime may wish to use libcni's support for caching `Result`s.",
		"A runtime may choose to stop executing `CHECK` for a chain when a plugin returns an error.",
		"A runtime may execute `CHECK` from immediately after a successful `ADD`, up until the container is `DEL`eted from the network.",
		"A runtime may assume that a failed `CHECK` means the container is permanently in a misconfigured state.",
		"All parameters, with the exception of `CNI_PATH`, must be the same as the corresponding `ADD` for this container.",
		"The runtime MUST NOT use GC as a substitute for DEL.",
		"The runtime must provide a JSON-serialized plugin configuration object (defined below) on standard in.",
		"A runtime may wish to _add_, _delete_, or _check_ a network configuration in a container.",
		"The container runtime must create a new network namespace for the container before invoking any plugins.",
		"The container runtime must not invoke parallel operations for the same container, but is allowed to invoke parallel operations for different containers.",
		"The runtime must exclusively execute either _gc_ or _add_ and _delete_.",
		"The runtime must ensure that no _add_ or _delete_ operations are in progress before executing _gc_, and must wait for _gc_ to complete before issuing new _add_ or _delete_ commands.",
		"The container runtime must ensure that _add_ is eventually followed by a corresponding _delete_.",
		"Furthermore, the runtime must be provided a list of paths to search for CNI plugins.",
		"This must also be provided to plugins during execution via the `CNI_PATH` environment variable.",
		"The runtime must store the result returned by the final plugin persistently, as it is required for _check_ and _delete_ operations.",
		"The runtime may also ask every plugin to confirm that a given attachment is still functional.",
		"The runtime must use the same attachment parameters as it did for the _add_ operation.",
		"The runtime may also ask every plugin in a network configuration to clean up any stale resources via the _GC_ command.",
		"The network configuration format (which is a list of plugin configurations to execute) must be transformed to a format understood by the plugin (which is a single plugin configuration).",
		"the runtime must insert an object consisting of the union of capabilities provided by the plugin and requested by the runtime (more details below).",
		`the runtime must insert consisting of the result type returned by the "previous" plugin.`,
		"This field must not be set for the first _add_ in a chain.",
		"- `capabilities`: must not be set",
		"All other fields not prefixed with `cni.dev/` should be passed through unaltered.",
		"Specifically, any capability supported by the plugin configuration and provided by the runtime should be inserted in the `runtimeConfig`.",
	}
}

func ofConfiguration() []string {
	return []string{
		"This should be unique across all network configurations on a host (or other administrative domain).",
		"Must start with an alphanumeric character, optionally followed by any combination of one or more alphanumeric characters, underscore, dot (.) or hyphen (-).",
		"Must not contain characters disallowed in file paths.",
		`Must not contain characters disallowed in file paths for the system (e.g. / or \\).`,
		"These keys are generated by the runtime at execution time, and thus should not be used in configuration.",
		"The network configuration should not change between _add_ and _delete_.",
		"The network configuration should not change between _attachments_.",
	}
}

func explains() []string {
	return []string{
		"In the future, we may change our mind about which particular commit is the right marker for a given historical spec version.",
		`The key words "must", "must not", "required", "shall", "shall not", "should", "should not", "recommended", "may" and "optional" are used as specified in`,
		"This allows an administrator to prevent `GC`ing when it is known that garbage collection may have undesired effects",
		"CNI runtimes, plugins, and network configurations may support multiple CNI specification versions independently.",
		"The plugin is not available, and existing containers in the network may have limited connectivity.",
		"Resources may, for example, include:",
		"Plugins may be unable to clean up some resources from GC that they would have been able to clean up from DEL.",
		"An attachment may be uniquely identified by the `(CNI_CONTAINERID, CNI_IFNAME)` tuple.",
		"While a network configuration should not change between _attachments_, there are certain parameters supplied by the container runtime that are per-attachment.",
		"Many CNI plugins would need to have the same code to support several IP management schemes that users may desire (e.g. dhcp, host-local).",
		"indicating which interface this IP configuration should be applied to.",
		"If unset, a value in `gateway` in the `ips` array may be used.",
	}
}

func permits() []string {
	return []string{
		`"Chained" plugins, which adjust the configuration of an already-created interface (but may need to create more interfaces to do so).`,
		"Rather, a CNI plugin may wish to delegate some functionality to another plugin.",
		"A CNI plugin may choose to delegate IP management to another plugin.",
		"The IPAM plugin may obtain the information via a protocol",
		"Delegated plugins may omit irrelevant sections.",
	}
}

// others have a reason each.
func others() []Unheld {
	return []Unheld{
		{"The CNI protocol follows Semantic Versioning principles, so the configuration format MUST remain backwards and forwards compatible within major versions.", "of the specification's own versions"},
		{"A CNI plugin, upon receiving an `ADD` command, should either", "what it should do is in the lines below it: 2.4-add-01"},
		{"A CNI plugin, upon receiving a `DEL` command, should either", "what it should do is in the lines below it: 2.4-del-01"},
		{"While DHCP may usually send a 'release' message on the container network interface, since DHCP leases have a lifetime this release action would not be considered critical and no error should be returned if this action fails.", "an example of what 2.4-del-03 checks, of DHCP alone"},
		{"The plugin should return an error if it is aware of a condition where the container is generally unreachable.", "from outside nobody can tell what a plugin is aware of"},
		{"For example, if a plugin relies on an external service or daemon, it should return an error to `STATUS` if that service is unavailable.", "from outside nobody can tell which services a plugin relies on"},
		{"_delete_ may be followed by additional _deletes_.", "of the runtime; that plugins accept it is 2.4-del-06"},
		{"When a plugin executes a delegated plugin, it should:", "what it should do is in the lines below it: 4.2-exec-01 to 03"},
		{"For certain operations, plugins must output result information.", "said again for each operation: 2.4-add-02, 5.2-version-01"},
		{"If the plugin detects some transient condition that should clear up, it can use this code to notify the runtime it should re-try the operation later.", "from outside nobody can tell which conditions are transient"},
	}
}
