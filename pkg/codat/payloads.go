package codat

import (
	"encoding/json"
	"slices"
)

// In this package the tag codat:"former" marks a member that no current schema of Codat's has and that bodies may still have.

// CompanyRef is the company that an event is about. The name can be personal data.
type CompanyRef struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Description string            `json:"description,omitempty"` // free text of the client, often a foreign id
	Links       CompanyLinks      `json:"links,omitzero"`
	Tags        map[string]string `json:"tags,omitempty"` // the client's own; at most 10
}

// CompanyLinks has the address of a company's page in Codat's portal.
type CompanyLinks struct {
	Portal string `json:"portal,omitempty"`
}

// Company is the payload of company.created and company.deleted. Unlike all other
// payloads it has no referenceCompany: its own id is the company's.
type Company struct {
	ID                           string            `json:"id"`
	Name                         string            `json:"name"`
	Description                  string            `json:"description,omitempty"`
	Redirect                     string            `json:"redirect"` // lets its holder link accounts: sensitive
	LastSync                     Time              `json:"lastSync"`
	Created                      Time              `json:"created"`
	CreatedByUserName            string            `json:"createdByUserName,omitempty"` // personal data
	OwnerUserIDs                 []string          `json:"ownerUserIds,omitempty"`      // ids of people: personal data
	Products                     []string          `json:"products,omitempty"`          // may be empty
	Tags                         map[string]string `json:"tags,omitempty"`
	ReferenceParentCompany       CompanyRef        `json:"referenceParentCompany,omitzero"`
	ReferenceSubsidiaryCompanies []CompanyRef      `json:"referenceSubsidiaryCompanies,omitempty"`
}

// CompanyProduct is the payload of company.product.added and company.product.removed.
type CompanyProduct struct {
	ID          string   `json:"id"` // of the company
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	ProductID   string   `json:"productId"`
	ProductName string   `json:"productName"`
	Products    []string `json:"products,omitempty"` // all that are enabled after the change
}

// ConnectionChange is the payload of the connection.* events.
type ConnectionChange struct {
	ReferenceCompany CompanyRef `json:"referenceCompany"`
	Connection       Connection `json:"connection"`
}

// Connection joins a company to a platform, as it was when the event was generated.
type Connection struct {
	ID                   string            `json:"id"`
	IntegrationID        string            `json:"integrationId"`
	IntegrationKey       string            `json:"integrationKey,omitempty"` // four letters that stay when the platform is renamed
	SourceID             string            `json:"sourceId"`
	SourceType           SourceType        `json:"sourceType"`
	PlatformName         string            `json:"platformName"`
	LinkURL              string            `json:"linkUrl"` // starts an authorisation: sensitive
	Status               ConnectionStatus  `json:"status"`
	LastSync             Time              `json:"lastSync"`
	Created              Time              `json:"created"`
	DataConnectionErrors []ConnectionError `json:"dataConnectionErrors,omitempty"`
	ConnectionInfo       json.RawMessage   `json:"connectionInfo,omitempty"`                      // free-form
	AdditionalProperties json.RawMessage   `json:"additionalProperties,omitempty" codat:"former"` // free-form; no current schema has it
}

// ConnectionError is an error between Codat and the platform.
type ConnectionError struct {
	StatusCode    string                `json:"statusCode"` // the platform's HTTP status
	StatusText    string                `json:"statusText"`
	ErrorMessage  string                `json:"errorMessage"`
	ErroredOnUTC  Time                  `json:"erroredOnUtc"`
	Status        ConnectionErrorStatus `json:"status,omitempty"` // "" when the error is not transient
	ResolvedOnUTC Time                  `json:"resolvedOnUtc"`
}

// ReadResult is the payload of the read.completed events. It holds one entry for each
// data type and connection, and all of them count.
type ReadResult struct {
	ReferenceCompany CompanyRef `json:"referenceCompany"`
	ModifiedFromDate Time       `json:"modifiedFromDate"`
	DataTypes        []Dataset  `json:"dataTypes"`
}

// AuthErrors returns the connections that failed with AuthError, each once, in the
// order of the payload. Such a connection is broken, even if no connection event says so.
func (r ReadResult) AuthErrors() []string {
	var ids []string
	for _, d := range r.DataTypes {
		if d.Status == DatasetAuthError && d.ConnectionID != "" && !slices.Contains(ids, d.ConnectionID) {
			ids = append(ids, d.ConnectionID)
		}
	}
	return ids
}

// Dataset is the outcome of reading one data type over one connection.
type Dataset struct {
	ConnectionID string   `json:"connectionId"`
	DataType     DataType `json:"dataType"`
	// RecordsModified is false on the first read after a connection was linked, whatever
	// was read: do not skip an import because of it after a type of a first read, such as
	// read.completed.initial.
	RecordsModified bool          `json:"recordsModified"`
	Status          DatasetStatus `json:"status"`
	Issues          []Issue       `json:"issues,omitempty"`
}

// Issue is a problem that Codat found while reading.
type Issue struct {
	Type    string     `json:"type"` // such as warning.validation
	Message string     `json:"message"`
	Links   IssueLinks `json:"links,omitzero"`
}

// IssueLinks leads to more about an issue. Only Logs names the dataset, inside a URL.
type IssueLinks struct {
	Logs     string `json:"logs,omitempty"`
	Portal   string `json:"portal,omitempty"`
	ReadMore string `json:"readMore,omitempty"`
}

// Write is the payload of the *.write.* events. It gives no reason for a failure:
// Codat's API returns it for the push operation key.
type Write struct {
	ID               string     `json:"id"` // the push operation key that the write call returned
	Type             WriteType  `json:"type"`
	ReferenceCompany CompanyRef `json:"referenceCompany"`
	ConnectionID     string     `json:"connectionId"`
	RequestedOnDate  Time       `json:"requestedOnDate"`
	CompletedOnDate  Time       `json:"completedOnDate"`
	Status           PushStatus `json:"status"`
	Record           RecordRef  `json:"record,omitzero"` // empty when nothing was written
	AttachmentID     string     `json:"attachmentId,omitempty"`
}

// PushOperationKey is the key that the call which asked for this write returned.
func (w Write) PushOperationKey() string { return w.ID }

// RecordRef names a record in the accounting platform.
type RecordRef struct {
	ID string `json:"id"`
}

// RateLimit is the payload of the client.rateLimit.* events: requests a day, requests
// left, and when the quota is renewed. If the date is unreadable, use 00:00 UTC, when
// quotas are renewed.
type RateLimit struct {
	DailyQuota     json.Number `json:"dailyQuota,omitempty"`
	QuotaRemaining json.Number `json:"quotaRemaining,omitempty"`
	ExpiryDate     Time        `json:"expiryDate"`
}

// SourceAccountChange is the payload of the bankFeeds.sourceAccount.* events. Take the
// state from the event's type: the documented examples carry the status pending.
type SourceAccountChange struct {
	ReferenceCompany CompanyRef    `json:"referenceCompany,omitzero"`
	CompanyID        string        `json:"companyId,omitempty" codat:"former"` // superseded by ReferenceCompany.ID
	ConnectionID     string        `json:"connectionId"`
	SourceAccount    SourceAccount `json:"sourceAccount,omitzero"`
	BankAccount      SourceAccount `json:"bankAccount,omitzero" codat:"former"` // in place of SourceAccount before 2025-01-10
}

// SourceAccount is a bank account of a bank feed. Number and balance are sensitive.
type SourceAccount struct {
	ID            string              `json:"id"` // in the client's system
	AccountName   string              `json:"accountName"`
	AccountType   AccountType         `json:"accountType"`
	AccountNumber string              `json:"accountNumber"`
	SortCode      string              `json:"sortCode,omitempty"`
	RoutingInfo   RoutingInfo         `json:"routingInfo,omitzero"`
	Currency      string              `json:"currency"` // ISO 4217
	Balance       json.Number         `json:"balance,omitempty"`
	AccountInfo   AccountInfo         `json:"accountInfo,omitzero"`
	ModifiedDate  Time                `json:"modifiedDate"`
	Status        SourceAccountStatus `json:"status,omitempty"`
	FeedStartDate Time                `json:"feedStartDate"`
}

// RoutingInfo is the code that identifies the bank of an account.
type RoutingInfo struct {
	BankCode string      `json:"bankCode,omitempty"`
	Type     RoutingType `json:"type,omitempty"`
}

// AccountInfo has further details of a bank account.
type AccountInfo struct {
	Description      string      `json:"description,omitempty"`
	Nickname         string      `json:"nickname,omitempty"`
	AccountOpenDate  Time        `json:"accountOpenDate"`
	AvailableBalance json.Number `json:"availableBalance,omitempty"`
}

// ExpensesSync is the payload of the expenses.sync.* events.
type ExpensesSync struct {
	ReferenceCompany CompanyRef        `json:"referenceCompany"`
	SyncID           string            `json:"syncId"`
	Transactions     []SyncTransaction `json:"transactions,omitempty"`
}

// SyncTransaction is the outcome of one transaction of an expenses sync.
type SyncTransaction struct {
	ID           string            `json:"id"`
	Status       TransactionStatus `json:"status"`
	ErrorMessage string            `json:"errorMessage,omitempty"`
}

// Report is the payload of the reports.* events.
type Report struct {
	ID               string     `json:"id"` // of the report
	ReferenceCompany CompanyRef `json:"referenceCompany"`
}
