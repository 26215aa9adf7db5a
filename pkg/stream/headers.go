package stream

// The headers of a stored message. The webhook-* headers are those of the header family that was verified, so that a
// holder of the key can verify the stored bytes again. The ce-* headers are CloudEvents in the NATS binary binding. A
// header whose value is unknown is absent. Message writes them and Open reads them.
const (
	HeaderWebhookID        = "webhook-id"
	HeaderWebhookTimestamp = "webhook-timestamp"
	HeaderWebhookSignature = "webhook-signature"

	headerCESpecVersion  = "ce-specversion"
	headerCEID           = "ce-id"
	headerCESource       = "ce-source"
	headerCEType         = "ce-type"
	headerCETime         = "ce-time"
	headerCESubject      = "ce-subject"
	headerCEConnectionID = "ce-connectionid"
	headerCEPushKey      = "ce-pushoperationkey"
	headerCEReceivedTime = "ce-receivedtime"

	HeaderContentType     = "content-type"
	HeaderContentEncoding = "content-encoding"
	HeaderTraceParent     = "traceparent"

	HeaderQuarantineReason = "headgate-quarantine-reason"
	HeaderRedrive          = "headgate-redrive"
	// HeaderSequence is the event's place in its stream. Redrives, parked copies and dead letters have it.
	HeaderSequence = "headgate-sequence"
)
