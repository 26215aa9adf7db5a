package codat

import "encoding/json"

// Name is a Pattern of event types together with the type P of their payload, so that
// a handler with the wrong payload does not compile.
type Name[P any] string

// A company was created or deleted, or a product was added or removed. The payload of
// the last two is the change, not the company.
const (
	CompanyCreated        Name[Company]        = "company.created"
	CompanyDeleted        Name[Company]        = "company.deleted"
	CompanyProductAdded   Name[CompanyProduct] = "company.product.added"
	CompanyProductRemoved Name[CompanyProduct] = "company.product.removed"
)

// A connection was created, changed its state, or was deleted. Take the state from the
// type and not from the payload's status: the documented connection.deleted says Linked.
const (
	ConnectionCreated      Name[ConnectionChange] = "connection.created"
	ConnectionConnected    Name[ConnectionChange] = "connection.connected"
	ConnectionFailed       Name[ConnectionChange] = "connection.failed"
	ConnectionDisconnected Name[ConnectionChange] = "connection.disconnected"
	ConnectionReconnected  Name[ConnectionChange] = "connection.reconnected"
	ConnectionDeleted      Name[ConnectionChange] = "connection.deleted"
)

// A read of a company's data ended. Codat's enterprise guide alone has the types with
// successful or unsuccessful, without a schema of their own. The first token of the
// three that begin with "*" is the name of a customer's product.
const (
	ReadCompleted                    Name[ReadResult] = "read.completed"
	ReadCompletedInitial             Name[ReadResult] = "read.completed.initial"
	ReadCompletedSuccessful          Name[ReadResult] = "read.completed.successful"
	ReadCompletedUnsuccessful        Name[ReadResult] = "read.completed.unsuccessful"
	ReadCompletedSuccessfulInitial   Name[ReadResult] = "read.completed.successful.initial"
	ProductReadCompleted             Name[ReadResult] = "*.read.completed"
	ProductReadCompletedSuccessful   Name[ReadResult] = "*.read.completed.successful"
	ProductReadCompletedUnsuccessful Name[ReadResult] = "*.read.completed.unsuccessful"
)

// A write (Codat's push) succeeded, was refused, or timed out. The event does not have
// the reason of a failure.
const (
	BankAccountsWriteSuccessful       Name[Write] = "bankAccounts.write.successful"
	BankAccountsWriteUnsuccessful     Name[Write] = "bankAccounts.write.unsuccessful"
	BankTransactionsWriteSuccessful   Name[Write] = "bankTransactions.write.successful"
	BankTransactionsWriteUnsuccessful Name[Write] = "bankTransactions.write.unsuccessful"
	BillCreditNotesWriteSuccessful    Name[Write] = "billCreditNotes.write.successful"
	BillCreditNotesWriteUnsuccessful  Name[Write] = "billCreditNotes.write.unsuccessful"
	BillPaymentsWriteSuccessful       Name[Write] = "billPayments.write.successful"
	BillPaymentsWriteUnsuccessful     Name[Write] = "billPayments.write.unsuccessful"
	BillsWriteSuccessful              Name[Write] = "bills.write.successful"
	BillsWriteUnsuccessful            Name[Write] = "bills.write.unsuccessful"
	ChartOfAccountsWriteSuccessful    Name[Write] = "chartOfAccounts.write.successful"
	ChartOfAccountsWriteUnsuccessful  Name[Write] = "chartOfAccounts.write.unsuccessful"
	CreditNotesWriteSuccessful        Name[Write] = "creditNotes.write.successful"
	CreditNotesWriteUnsuccessful      Name[Write] = "creditNotes.write.unsuccessful"
	CustomersWriteSuccessful          Name[Write] = "customers.write.successful"
	CustomersWriteUnsuccessful        Name[Write] = "customers.write.unsuccessful"
	DirectCostsWriteSuccessful        Name[Write] = "directCosts.write.successful"
	DirectCostsWriteUnsuccessful      Name[Write] = "directCosts.write.unsuccessful"
	DirectIncomesWriteSuccessful      Name[Write] = "directIncomes.write.successful"
	DirectIncomesWriteUnsuccessful    Name[Write] = "directIncomes.write.unsuccessful"
	InvoicesWriteSuccessful           Name[Write] = "invoices.write.successful"
	InvoicesWriteUnsuccessful         Name[Write] = "invoices.write.unsuccessful"
	ItemsWriteSuccessful              Name[Write] = "items.write.successful"
	ItemsWriteUnsuccessful            Name[Write] = "items.write.unsuccessful"
	JournalEntriesWriteSuccessful     Name[Write] = "journalEntries.write.successful"
	JournalEntriesWriteUnsuccessful   Name[Write] = "journalEntries.write.unsuccessful"
	JournalsWriteSuccessful           Name[Write] = "journals.write.successful"
	JournalsWriteUnsuccessful         Name[Write] = "journals.write.unsuccessful"
	PaymentsWriteSuccessful           Name[Write] = "payments.write.successful"
	PaymentsWriteUnsuccessful         Name[Write] = "payments.write.unsuccessful"
	PurchaseOrdersWriteSuccessful     Name[Write] = "purchaseOrders.write.successful"
	PurchaseOrdersWriteUnsuccessful   Name[Write] = "purchaseOrders.write.unsuccessful"
	SuppliersWriteSuccessful          Name[Write] = "suppliers.write.successful"
	SuppliersWriteUnsuccessful        Name[Write] = "suppliers.write.unsuccessful"
	TransfersWriteSuccessful          Name[Write] = "transfers.write.successful"
	TransfersWriteUnsuccessful        Name[Write] = "transfers.write.unsuccessful"
)

// The writes of every data type, also of those that Codat will add. They are not in the
// catalog. A worker handles either these or literal names of writes, because the
// filters of one consumer must not overlap.
const (
	AnyWriteSuccessful   Name[Write] = "*.write.successful"
	AnyWriteUnsuccessful Name[Write] = "*.write.unsuccessful"
)

// The daily quota of API calls is used up, or was renewed. The events are about the
// client and have no company.
const (
	RateLimitReached Name[RateLimit] = "client.rateLimit.reached"
	RateLimitReset   Name[RateLimit] = "client.rateLimit.reset"
)

// A bank-feed account was connected or disconnected.
const (
	SourceAccountConnected    Name[SourceAccountChange] = "bankFeeds.sourceAccount.connected"
	SourceAccountDisconnected Name[SourceAccountChange] = "bankFeeds.sourceAccount.disconnected"
)

// A sync of expenses ended without, or with, an error or a warning.
const (
	ExpensesSyncSuccessful   Name[ExpensesSync] = "expenses.sync.successful"
	ExpensesSyncUnsuccessful Name[ExpensesSync] = "expenses.sync.unsuccessful"
)

// A report was generated, or could not be.
const (
	CategorizedBankStatementSuccessful   Name[Report] = "reports.categorizedBankStatement.generate.successful"
	CategorizedBankStatementUnsuccessful Name[Report] = "reports.categorizedBankStatement.generate.unsuccessful"
	CreditModelSuccessful                Name[Report] = "reports.creditModel.generate.successful"
	CreditModelUnsuccessful              Name[Report] = "reports.creditModel.generate.unsuccessful"
	SpendAnalysisSuccessful              Name[Report] = "reports.spendAnalysis.generate.successful"
	SpendAnalysisUnsuccessful            Name[Report] = "reports.spendAnalysis.generate.unsuccessful"
)

// AccountCategoriesUpdated is current, although its body has the legacy format.
const AccountCategoriesUpdated Name[Rule[AccountCategoriesUpdatedData]] = "AccountCategoriesUpdated"

// Legacy rule types, by their names in the catalog. On the wire they are sentences,
// such as "Push Operation Status Changed()"; [Read] gives the names below. SyncStarted
// was never in Codat's catalog; its name follows that of its siblings.
const (
	DataConnectionStatusChanged  Name[Rule[DataConnectionStatusChangedData]]  = "DataConnectionStatusChanged"
	NewCompanySynchronized       Name[Rule[NewCompanySynchronizedData]]       = "NewCompanySynchronized"
	DataSyncCompleted            Name[Rule[DatasetData]]                      = "DataSyncCompleted"
	DatasetDataChanged           Name[Rule[DatasetData]]                      = "DatasetDataChanged"
	DataSyncStatusChangedToError Name[Rule[DataSyncStatusChangedToErrorData]] = "DataSyncStatusChangedToError"
	PushOperationStatusChanged   Name[Rule[PushOperationStatusChangedData]]   = "PushOperationStatusChanged"
	PushOperationTimedOut        Name[Rule[PushOperationTimedOutData]]        = "PushOperationTimedOut"
	SyncConnectionDeleted        Name[Rule[NoData]]                           = "SyncConnectionDeleted"
	SyncStarted                  Name[Rule[SyncData]]                         = "SyncStarted"
	SyncCompleted                Name[Rule[SyncData]]                         = "SyncCompleted"
	SyncFailed                   Name[Rule[SyncFailedData]]                   = "SyncFailed"
	ClientRateLimitReached       Name[Rule[ClientRateLimitReachedData]]       = "ClientRateLimitReached"
	ClientRateLimitReset         Name[Rule[ClientRateLimitResetData]]         = "ClientRateLimitReset"
)

// Types that Codat published for a few days in 2024 and withdrew. The payload of the
// payables was never documented and stays JSON.
const (
	PayablesBillCreated Name[json.RawMessage] = "payables.bill.created"
	PayablesBillUpdated Name[json.RawMessage] = "payables.bill.updated"
	PayablesBillDeleted Name[json.RawMessage] = "payables.bill.deleted"
	ReadComplete        Name[ReadResult]      = "read.complete"
)
