package codat

// PushStatus is the state of a push operation. Values that are not among the constants are kept.
type PushStatus string

// The states of a push operation. TimedOut only says that Codat waited long enough: the
// record may still be written, and a Success or Failed for the same key may follow.
const (
	Pending  PushStatus = "Pending"
	Failed   PushStatus = "Failed"
	Success  PushStatus = "Success"
	TimedOut PushStatus = "TimedOut"
)

// IsSettled reports whether the outcome is known: written, or refused.
func (s PushStatus) IsSettled() bool { return s == Success || s == Failed }

// WriteType is what a write did. Values that are not among the constants are kept.
type WriteType string

// The kinds of write. Codat's own example of an attachment says Create.
const (
	WriteCreate           WriteType = "Create"
	WriteUpdate           WriteType = "Update"
	WriteDelete           WriteType = "Delete"
	WriteUploadAttachment WriteType = "UploadAttachment"
)

// ConnectionStatus is the state of a connection's authorisation. Values that are not
// among the constants are kept.
type ConnectionStatus string

// The states of a connection: waiting for the customer, working, cut by the client,
// revoked by the customer or expired.
const (
	PendingAuth  ConnectionStatus = "PendingAuth"
	Linked       ConnectionStatus = "Linked"
	Unlinked     ConnectionStatus = "Unlinked"
	Deauthorized ConnectionStatus = "Deauthorized"
)

// SourceType is the kind of source behind a connection. Values that are not among the
// constants are kept.
type SourceType string

// The kinds of source.
const (
	SourceAccounting SourceType = "Accounting"
	SourceBanking    SourceType = "Banking"
	SourceBankFeed   SourceType = "BankFeed"
	SourceCommerce   SourceType = "Commerce"
	SourceExpense    SourceType = "Expense"
	SourceOther      SourceType = "Other"
	SourceUnknown    SourceType = "Unknown"
)

// ConnectionErrorStatus is the state of a transient connection error. Values that are
// not among the constants are kept.
type ConnectionErrorStatus string

// The states of a transient connection error.
const (
	ErrorActive   ConnectionErrorStatus = "Active"
	ErrorResolved ConnectionErrorStatus = "Resolved"
)

// DatasetStatus is where the read of a data type stands. Values that are not among the
// constants are kept.
type DatasetStatus string

// The stages of a read and its ends.
const (
	DatasetInitial            DatasetStatus = "Initial"
	DatasetQueued             DatasetStatus = "Queued"
	DatasetFetching           DatasetStatus = "Fetching"
	DatasetMapQueued          DatasetStatus = "MapQueued"
	DatasetMapping            DatasetStatus = "Mapping"
	DatasetComplete           DatasetStatus = "Complete"
	DatasetFetchError         DatasetStatus = "FetchError"
	DatasetMapError           DatasetStatus = "MapError"
	DatasetInternalError      DatasetStatus = "InternalError"
	DatasetProcessingQueued   DatasetStatus = "ProcessingQueued"
	DatasetProcessing         DatasetStatus = "Processing"
	DatasetProcessingError    DatasetStatus = "ProcessingError"
	DatasetValidationQueued   DatasetStatus = "ValidationQueued"
	DatasetValidating         DatasetStatus = "Validating"
	DatasetValidationError    DatasetStatus = "ValidationError"
	DatasetAuthError          DatasetStatus = "AuthError"
	DatasetCancelled          DatasetStatus = "Cancelled"
	DatasetNotSupported       DatasetStatus = "NotSupported"
	DatasetRateLimitError     DatasetStatus = "RateLimitError"
	DatasetPermissionsError   DatasetStatus = "PermissionsError"
	DatasetPrerequisiteNotMet DatasetStatus = "PrerequisiteNotMet"
)

// IsError reports whether the read ended badly. A status that Codat adds later is not
// an error until it is named here.
func (s DatasetStatus) IsError() bool {
	switch s {
	case DatasetFetchError, DatasetMapError, DatasetInternalError, DatasetProcessingError,
		DatasetValidationError, DatasetAuthError, DatasetRateLimitError,
		DatasetPermissionsError, DatasetPrerequisiteNotMet:
		return true
	}
	return false
}

// IsFinal reports whether the read has ended, well or badly.
func (s DatasetStatus) IsFinal() bool {
	switch s {
	case DatasetComplete, DatasetCancelled, DatasetNotSupported:
		return true
	}
	return s.IsError()
}

// TransactionStatus is how a transaction of an expenses sync ended. Values that are not
// among the constants are kept.
type TransactionStatus string

// The states of a transaction.
const (
	TransactionUnknown   TransactionStatus = "Unknown"
	TransactionPushError TransactionStatus = "PushError"
	TransactionCompleted TransactionStatus = "Completed"
	TransactionFailed    TransactionStatus = "Failed"
	TransactionPending   TransactionStatus = "Pending"
)

// SourceAccountStatus is the state of a bank-feed account. Values that are not among the
// constants are kept.
type SourceAccountStatus string

// The states of a bank-feed account.
const (
	AccountPending      SourceAccountStatus = "pending"
	AccountConnected    SourceAccountStatus = "connected"
	AccountConnecting   SourceAccountStatus = "connecting"
	AccountDisconnected SourceAccountStatus = "disconnected"
	AccountUnknown      SourceAccountStatus = "unknown"
)

// AccountType is the kind of a bank account; free text in older events. Values that are
// not among the constants are kept.
type AccountType string

// The kinds of bank account.
const (
	AccountChecking    AccountType = "checking"
	AccountSavings     AccountType = "savings"
	AccountLoan        AccountType = "loan"
	AccountCreditCard  AccountType = "creditCard"
	AccountPrepaidCard AccountType = "prepaidCard"
)

// RoutingType is the kind of a bank code. Values that are not among the constants are kept.
type RoutingType string

// The kinds of bank code.
const (
	RoutingRTN      RoutingType = "rtn"
	RoutingABA      RoutingType = "aba"
	RoutingSWIFT    RoutingType = "swift"
	RoutingBSB      RoutingType = "bsb"
	RoutingIBAN     RoutingType = "iban"
	RoutingNZ2      RoutingType = "nz2"
	RoutingTRNO     RoutingType = "trno"
	RoutingSortCode RoutingType = "sortcode"
	RoutingBLZ      RoutingType = "blz"
	RoutingIFSC     RoutingType = "ifsc"
	RoutingBankCode RoutingType = "bankcode"
	RoutingAPCA     RoutingType = "apca"
	RoutingCLABE    RoutingType = "clabe"
)
