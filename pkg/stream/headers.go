package stream

// The headers of a stored message. The webhook-* ones are those of the family that proved, so that anyone with the key
// can prove the stored bytes again; the ce-* ones are CloudEvents in the NATS binary binding. A header whose value is
// unknown is absent.
const (
	HeaderWebhookID        = "webhook-id"
	HeaderWebhookTimestamp = "webhook-timestamp"
	HeaderWebhookSignature = "webhook-signature"

	HeaderCESpecVersion  = "ce-specversion"
	HeaderCEID           = "ce-id"
	HeaderCESource       = "ce-source"
	HeaderCEType         = "ce-type"
	HeaderCETime         = "ce-time"
	HeaderCESubject      = "ce-subject"
	HeaderCEConnectionID = "ce-connectionid"
	HeaderCEReceivedTime = "ce-receivedtime"

	HeaderContentType     = "content-type"
	HeaderContentEncoding = "content-encoding"
	HeaderTraceParent     = "traceparent"

	HeaderQuarantineReason = "headgate-quarantine-reason"
	HeaderRedrive          = "headgate-redrive"
)
