package doctor

// Codes of faults and warnings. Those of the check "configuration" are
// pkg/hostconf's. docs/doctor.md says what they mean and what to do.
const (
	codeMirrorDown      = "mirror-down"
	codeMirrorHung      = "mirror-hung"
	codePortTaken       = "port-taken"
	codePeerdHidden     = "peerd-unreachable"
	codeBypassed        = "canary-bypassed"
	codeCanaryFailed    = "canary-failed"
	codeRegistryUnknown = "registry-unknown"
	codeLately          = "bypassed-lately"
	codeSeederDown      = "seeder-unreachable"
	codeSeederDenied    = "seeder-denied"
	codeSeederOther     = "seeder-is-another"
	codeKeyWrong        = "key-wrong"
	codeClock           = "clock-skew"
	codeNoPeers         = "no-peers"
	codeDHTAlone        = "dht-alone"
	codePortClosed      = "peer-port-closed"
	codeUpstreamDown    = "upstream-unreachable"
	codeDiskFull        = "disk-full"
	codeDiskSlow        = "disk-slow"
	codeDiskFails       = "disk-failing"
	codeMismatch        = "digest-mismatch"
)
