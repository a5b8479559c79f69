package hostconf

// Codes of notes that Plan and Verify make. docs/setup.md says what to do.
const (
	codeAlready        = "already-there"
	codeByDefault      = "served-by-default"
	codeCRIOff         = "cri-off"
	codeConfigConflict = "config-path-conflict"
	codeConfigMissing  = "config-path-missing"
	codeConfigShadowed = "config-path-shadowed"
	codeConfigTwo      = "config-path-two-folders"
	codeDefaultHides   = "default-would-hide"
	codeDockerFlag     = "docker-flag"
	codeDockerHubOnly  = "docker-hub-only"
	codeEdited         = "edited-since"
	codeGenerated      = "generated"
	codeLacksPull      = "lacks-pull"
	codeLacksResolve   = "lacks-resolve"
	codeMirrorDown     = "mirror-down"
	codeMirrorOther    = "mirror-is-another"
	codeNoDialTimeout  = "no-dial-timeout"
	codeNotConfigured  = "not-configured"
	codeNotCovered     = "not-covered"
	codeNotEdited      = "not-edited"
	codeNotFirst       = "not-first"
	codeReload         = "reload-needed"
	codeRestart        = "restart-needed"
	codeUnreadable     = "unreadable"
)
