package codat

import "encoding/json"

// Rule is a whole body in the legacy format: without envelope and date, and with the
// details in Data. Keys are matched without regard to case, since older bodies write companyId
// for CompanyId and some write Data's keys in Pascal case.
type Rule[D any] struct {
	AlertID          string `json:"AlertId"` // Codat's id of the event
	ClientID         string `json:"ClientId,omitempty"`
	ClientName       string `json:"ClientName,omitempty"`
	CompanyID        string `json:"CompanyId,omitempty"`
	DataConnectionID string `json:"DataConnectionId,omitempty"`
	RuleID           string `json:"RuleId,omitempty"` // no longer filled by Codat
	RuleType         string `json:"RuleType,omitempty"`
	Type             string `json:"Type,omitempty"`    // in place of RuleType in older bodies
	Message          string `json:"Message,omitempty"` // for people; do not parse it
	Data             D      `json:"Data,omitzero"`
}

// NoData is the Data of a rule that has none.
type NoData struct{}

// AccountCategoriesUpdatedData says when the categories last changed.
type AccountCategoriesUpdatedData struct {
	ModifiedDate Time `json:"modifiedDate"`
}

// DataConnectionStatusChangedData is the change of a connection's status.
type DataConnectionStatusChangedData struct {
	DataConnectionID string           `json:"dataConnectionId"`
	NewStatus        ConnectionStatus `json:"newStatus"`
	OldStatus        ConnectionStatus `json:"oldStatus"`
	PlatformKey      string           `json:"platformKey"` // four letters
}

// NewCompanySynchronizedData was seen in one documented body only; the others have no Data.
type NewCompanySynchronizedData struct {
	CompanyName string `json:"companyName,omitempty"` // a uuid where it was seen
	SourceType  string `json:"sourceType,omitempty"`
}

// DatasetData names a dataset that was read, or whose records changed.
type DatasetData struct {
	DataType  DataType `json:"dataType"`
	DatasetID string   `json:"datasetId"`
}

// DataSyncStatusChangedToErrorData names a dataset whose read failed.
type DataSyncStatusChangedToErrorData struct {
	DataType      DataType      `json:"dataType"`
	DatasetStatus DatasetStatus `json:"datasetStatus"`
	DatasetID     string        `json:"datasetId"`
}

// PushOperationStatusChangedData is the new state of a push operation.
type PushOperationStatusChangedData struct {
	DataType         DataType   `json:"dataType"`
	Status           PushStatus `json:"status"`
	PushOperationKey string     `json:"pushOperationKey"`
}

// PushOperationTimedOutData names a push operation that Codat no longer waits for.
type PushOperationTimedOutData struct {
	DataType          DataType `json:"dataType"`
	PushOperationKey  string   `json:"pushOperationKey,omitempty"`
	PushOperationGUID string   `json:"pushOperationGuid,omitempty"` // the older name of the key
}

// Key is the push operation key, under either name.
func (d PushOperationTimedOutData) Key() string {
	if d.PushOperationKey != "" {
		return d.PushOperationKey
	}
	return d.PushOperationGUID
}

// SyncData is a sync of expenses that started or ended. Only older bodies have the range.
type SyncData struct {
	SyncID                 string `json:"syncId"`
	SyncType               string `json:"syncType"`
	SyncDateRangeStartUTC  Time   `json:"SyncDateRangeStartUtc"`
	SyncDateRangeFinishUTC Time   `json:"SyncDateRangeFinishUtc"`
}

// SyncFailedData is a sync of expenses that failed, and where.
type SyncFailedData struct {
	SyncData
	FailureStage string `json:"FailureStage"`
}

// ClientRateLimitReachedData is the used-up quota, and when it is renewed.
type ClientRateLimitReachedData struct {
	DailyQuota json.Number `json:"DailyQuota,omitempty"`
	ExpiresUTC Time        `json:"ExpiresUtc"`
}

// ClientRateLimitResetData is the renewed quota, and why it was renewed.
type ClientRateLimitResetData struct {
	QuotaRemaining json.Number `json:"QuotaRemaining,omitempty"`
	ResetReason    string      `json:"ResetReason,omitempty"`
	DailyQuota     json.Number `json:"DailyQuota,omitempty"`
	ExpiresUTC     Time        `json:"ExpiresUtc"`
}
