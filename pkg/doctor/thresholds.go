package doctor

import "time"

// The thresholds. Those with an alert have the numbers of deploy/monitoring/rules.yml.
const (
	fillWarn = 0.7  // HeadgateStreamFilling
	fillFail = 0.85 // HeadgateStreamFilling

	replicaLag  = 1000              // HeadgateReplicaBehind
	placesUsed  = 0.8               // HeadgateAckPending
	breakerOpen = 900 * time.Second // HeadgateBreakerOpen

	unsettledWarn = 3600 * time.Second  // HeadgateOldestUnsettled
	unsettledFail = 43200 * time.Second // HeadgateOldestUnsettled
	unsettledPart = 0.5                 // HeadgateOldestUnsettled, of the retention

	deadWindow = time.Hour               // HeadgateDeadLetters
	deadFail   = 100                     // HeadgateDeadLetters
	parkedLong = 86400 * time.Second     // HeadgateParkedLong
	silentFail = 3 * 86400 * time.Second // HeadgateSilent
	noFirst    = 3600 * time.Second      // HeadgateNoFirstEvent
	quarantine = 24 * time.Hour          // HeadgateQuarantine

	clockWarn = 60 * time.Second // HeadgateClockSkew
	clockFail = 5 * time.Minute  // the tolerance of the ingress

	certificateWarn = 14 * 86400 * time.Second // HeadgateCertificateEnds
	certificateFail = 3 * 86400 * time.Second  // HeadgateCertificateEnds

	slowAnswer = 2 * time.Second // HeadgateAcceptSlow

	keyAge       = 365 * 24 * time.Hour
	minMaxAge    = 14 * 24 * time.Hour // Codat replays events of 14 days
	disableAfter = 5 * 24 * time.Hour  // of failures, Codat disables an endpoint
	watchSilent  = 2 * time.Hour       // headgate watch writes what it has learned once an hour
)

// minServer is the oldest version of the NATS server that works, and goodServer the first one that writes to disk before each
// acknowledgement at a small cost.
var minServer, goodServer = [2]int{2, 12}, [2]int{2, 15}
