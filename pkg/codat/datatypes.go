package codat

import "slices"

// DataType is a kind of data that Codat reads or writes, as Codat spells it. Values
// that are not among the constants are kept.
type DataType string

// The data types that Codat documents: accounting, banking and commerce.
const (
	DataAccountTransactions          DataType = "accountTransactions"
	DataBalanceSheet                 DataType = "balanceSheet"
	DataBankAccounts                 DataType = "bankAccounts"
	DataBankTransactions             DataType = "bankTransactions"
	DataBillCreditNotes              DataType = "billCreditNotes"
	DataBillPayments                 DataType = "billPayments"
	DataBills                        DataType = "bills"
	DataCashFlowStatement            DataType = "cashFlowStatement"
	DataChartOfAccounts              DataType = "chartOfAccounts"
	DataCompany                      DataType = "company"
	DataCreditNotes                  DataType = "creditNotes"
	DataCustomers                    DataType = "customers"
	DataDirectCosts                  DataType = "directCosts"
	DataDirectIncomes                DataType = "directIncomes"
	DataInvoices                     DataType = "invoices"
	DataItemReceipts                 DataType = "itemReceipts"
	DataItems                        DataType = "items"
	DataJournalEntries               DataType = "journalEntries"
	DataJournals                     DataType = "journals"
	DataPaymentMethods               DataType = "paymentMethods"
	DataPayments                     DataType = "payments"
	DataProfitAndLoss                DataType = "profitAndLoss"
	DataPurchaseOrders               DataType = "purchaseOrders"
	DataSalesOrders                  DataType = "salesOrders"
	DataSuppliers                    DataType = "suppliers"
	DataTaxRates                     DataType = "taxRates"
	DataTrackingCategories           DataType = "trackingCategories"
	DataTransfers                    DataType = "transfers"
	DataBankingAccountBalances       DataType = "banking-accountBalances"
	DataBankingAccounts              DataType = "banking-accounts"
	DataBankingTransactionCategories DataType = "banking-transactionCategories"
	DataBankingTransactions          DataType = "banking-transactions"
	DataCommerceCompanyInfo          DataType = "commerce-companyInfo"
	DataCommerceCustomers            DataType = "commerce-customers"
	DataCommerceDisputes             DataType = "commerce-disputes"
	DataCommerceLocations            DataType = "commerce-locations"
	DataCommerceOrders               DataType = "commerce-orders"
	DataCommercePaymentMethods       DataType = "commerce-paymentMethods"
	DataCommercePayments             DataType = "commerce-payments"
	DataCommerceProductCategories    DataType = "commerce-productCategories"
	DataCommerceProducts             DataType = "commerce-products"
	DataCommerceTaxComponents        DataType = "commerce-taxComponents"
	DataCommerceTransactions         DataType = "commerce-transactions"
)

// writable has the kinds of write that Codat documents for each data type.
var writable = map[DataType][]WriteType{
	DataBankAccounts:     {WriteCreate, WriteUpdate},
	DataBankTransactions: {WriteCreate},
	DataBillCreditNotes:  {WriteCreate, WriteUpdate, WriteUploadAttachment},
	DataBillPayments:     {WriteCreate, WriteDelete},
	DataBills:            {WriteCreate, WriteUpdate, WriteDelete, WriteUploadAttachment},
	DataChartOfAccounts:  {WriteCreate},
	DataCreditNotes:      {WriteCreate, WriteUpdate},
	DataCustomers:        {WriteCreate, WriteUpdate},
	DataDirectCosts:      {WriteCreate, WriteDelete, WriteUploadAttachment},
	DataDirectIncomes:    {WriteCreate, WriteUploadAttachment},
	DataInvoices:         {WriteCreate, WriteUpdate, WriteDelete, WriteUploadAttachment},
	DataItems:            {WriteCreate},
	DataJournalEntries:   {WriteCreate, WriteDelete},
	DataJournals:         {WriteCreate},
	DataPayments:         {WriteCreate},
	DataPurchaseOrders:   {WriteCreate, WriteUpdate},
	DataSuppliers:        {WriteCreate, WriteUpdate},
	DataTransfers:        {WriteCreate, WriteUploadAttachment},
}

// Writable reports whether Codat documents a kind of write for the data type (Accounting API, 2026-08). A platform can
// support less.
func (d DataType) Writable(kind WriteType) bool { return slices.Contains(writable[d], kind) }

// WritableDataTypes returns the data types for which Codat documents a kind of write, sorted.
func WritableDataTypes(kind WriteType) []DataType {
	var all []DataType
	for d := range writable {
		if d.Writable(kind) {
			all = append(all, d)
		}
	}
	slices.Sort(all)
	return all
}
