package codat

import "reflect"

// documented has the values that Codat documents, by the Go type of the enumeration.
var documented = map[reflect.Type][]string{
	reflect.TypeFor[PushStatus](): texts(
		Pending, Failed, Success, TimedOut,
	),
	reflect.TypeFor[WriteType](): texts(
		WriteCreate, WriteUpdate, WriteDelete, WriteUploadAttachment,
	),
	reflect.TypeFor[ConnectionStatus](): texts(
		PendingAuth, Linked, Unlinked, Deauthorized,
	),
	reflect.TypeFor[SourceType](): texts(
		SourceAccounting, SourceBanking, SourceBankFeed, SourceCommerce, SourceExpense, SourceOther, SourceUnknown,
	),
	reflect.TypeFor[ConnectionErrorStatus](): texts(
		ErrorActive, ErrorResolved,
	),
	reflect.TypeFor[DatasetStatus](): texts(
		DatasetInitial, DatasetQueued, DatasetFetching, DatasetMapQueued, DatasetMapping, DatasetComplete, DatasetFetchError,
		DatasetMapError, DatasetInternalError, DatasetProcessingQueued, DatasetProcessing, DatasetProcessingError,
		DatasetValidationQueued, DatasetValidating, DatasetValidationError, DatasetAuthError, DatasetCancelled,
		DatasetNotSupported, DatasetRateLimitError, DatasetPermissionsError, DatasetPrerequisiteNotMet,
	),
	reflect.TypeFor[TransactionStatus](): texts(
		TransactionUnknown, TransactionPushError, TransactionCompleted, TransactionFailed, TransactionPending,
	),
	reflect.TypeFor[SourceAccountStatus](): texts(
		AccountPending, AccountConnected, AccountConnecting, AccountDisconnected, AccountUnknown,
	),
	reflect.TypeFor[AccountType](): texts(
		AccountChecking, AccountSavings, AccountLoan, AccountCreditCard, AccountPrepaidCard,
	),
	reflect.TypeFor[RoutingType](): texts(
		RoutingRTN, RoutingABA, RoutingSWIFT, RoutingBSB, RoutingIBAN, RoutingNZ2, RoutingTRNO, RoutingSortCode, RoutingBLZ,
		RoutingIFSC, RoutingBankCode, RoutingAPCA, RoutingCLABE,
	),
	reflect.TypeFor[DataType](): texts(
		DataAccountTransactions, DataBalanceSheet, DataBankAccounts, DataBankTransactions, DataBillCreditNotes,
		DataBillPayments, DataBills, DataCashFlowStatement, DataChartOfAccounts, DataCompany, DataCreditNotes, DataCustomers,
		DataDirectCosts, DataDirectIncomes, DataInvoices, DataItemReceipts, DataItems, DataJournalEntries, DataJournals,
		DataPaymentMethods, DataPayments, DataProfitAndLoss, DataPurchaseOrders, DataSalesOrders, DataSuppliers,
		DataTaxRates, DataTrackingCategories, DataTransfers, DataBankingAccountBalances, DataBankingAccounts,
		DataBankingTransactionCategories, DataBankingTransactions, DataCommerceCompanyInfo, DataCommerceCustomers,
		DataCommerceDisputes, DataCommerceLocations, DataCommerceOrders, DataCommercePaymentMethods, DataCommercePayments,
		DataCommerceProductCategories, DataCommerceProducts, DataCommerceTaxComponents, DataCommerceTransactions,
	),
}

// Values returns the values that Codat documents for an enumeration, such as PushStatus, and nil for another type. Codat adds
// values without notice.
func Values(enumeration reflect.Type) []string { return documented[enumeration] }

func texts[E ~string](values ...E) []string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = string(v)
	}
	return all
}
